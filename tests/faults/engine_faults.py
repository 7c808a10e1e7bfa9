"""What befalls containers."""

from dataclasses import replace

from ulos_stream.images import docker

from .invariants import Fault
from .nodes import Node
from .rounds import Action, Round
from .scenarios import scenario
from .world import CONTAINED, Sent, make_image


@scenario("container: docker kill", rounds=3, tasks=20)
async def kill_containers(round_: Round) -> None:
    """Somebody kills a container; that is nobody's verdict, and the stage is executed again."""
    make_image()
    tasks = round_.prepare(first=CONTAINED, pause_s=1)
    for sent in round_.draw.sample(tasks, 4):
        round_.plan["executing", sent.task, CONTAINED] = _kill(round_, sent)
    await round_.start_nodes()
    await round_.send(tasks)


def _kill(round_: Round, sent: Sent) -> Action:
    async def kill(node: Node) -> None:
        round_.faults.append(Fault("container: docker kill", frozenset([sent.task])))
        listed = docker("ps", "--quiet", "--filter", f"label=ulos.task={sent.task}", hint="docker").decode().split()
        docker("kill", *listed, hint="docker")

    return kill


@scenario("container: node killed", rounds=3, tasks=20)
async def kill_nodes_of_containers(round_: Round) -> None:
    """The node dies under running containers; none is left."""
    make_image()
    tasks = round_.prepare(first=CONTAINED, pause_s=1)
    for sent in round_.draw.sample(tasks, 4):
        round_.kill_at("executing", sent, CONTAINED)
    await round_.start_nodes()
    await round_.send(tasks)


@scenario("container: out of memory", rounds=1, tasks=20)
async def run_out_of_memory(round_: Round) -> None:
    """A run that takes more memory than it may is crash-reported; the others do not notice."""
    make_image()
    hogs = round_.prepare(3, first=CONTAINED, hog=True)
    round_.sent[:3] = [replace(sent, stages=(), end="executor_crashed") for sent in hogs]
    round_.faults += [Fault("container: out of memory", frozenset([sent.task])) for sent in hogs]
    round_.bystanders_hold = True
    round_.prepare(round_.tasks - 3, first=CONTAINED)
    await round_.start_nodes()
    await round_.send(round_.sent)
