"""The AsyncAPI document and its page, of a node as the samples configure it, whatever the environment says.

python -m ulos_stream.docs asyncapi    # writes asyncapi/asyncapi.yaml and asyncapi/site/index.html
"""

import sys
from pathlib import Path

from pydantic import SecretStr

from ulos_stream.app import create_app
from ulos_stream.asyncapi.document import Document, complete
from ulos_stream.asyncapi.page import page
from ulos_stream.asyncapi.text import to_yaml
from ulos_stream.settings import MessageBroker, Node, OpenTelemetry, Settings


def settings_of_the_document() -> Settings:
    """Of a node that never runs."""
    broker = MessageBroker(
        host="localhost",
        port=5672,
        username="nobody",
        password=SecretStr("none"),
        logs_exchange="processing-exchange",
        logs_routing_key="task.log",
        crash_exchange="processing-exchange",
        crash_routing_key="task.crashed",
        consumption_queue="processing-queue",
        prefetch_count=0,
        requeue_on_reject=False,
    )
    node = Node.model_construct(storage_url="file:///")  # which, unlike `Node()`, does not read the environment
    return Settings(broker, storage=None, node=node, telemetry=OpenTelemetry.model_construct())


def build_document() -> Document:
    """The document, from the app of a node that never runs."""
    return complete(create_app(settings_of_the_document()).schema.to_specification().to_jsonable())


def build_site(directory: Path) -> None:
    """Write the page of the document, complete in itself, as `index.html` of a directory that is made if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "index.html").write_text(page(build_document()), encoding="utf-8")


def main(directory: Path) -> None:
    """Write the document and its page."""
    (directory / "asyncapi.yaml").write_text(to_yaml(build_document()), encoding="utf-8")
    build_site(directory / "site")
    print(directory / "site" / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
