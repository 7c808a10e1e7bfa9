"""The short form of `tests.faults.hostile_input`: every hostile item once, among a few good tasks."""

import secrets

from faults.hostile_input import besiege, violations

from ulos_stream import lab
from ulos_stream.lab import Broker


async def test_each_hostile_archive_and_body_costs_one_crash_report_and_good_tasks_nothing(broker: Broker) -> None:
    with lab.pyftpd(password=f"storage-{secrets.token_hex(8)}") as storage:
        seen = await besiege(broker, storage, seed=1, good_tasks=20)
        wrong = list(violations(seen))

    assert wrong == []
    assert sum(item.end == "malformed_message" for item in seen.items) >= 70
    assert sum(item.end == "archive_rejected" for item in seen.items) >= 38
