"""One message of a feed in one line, for people or for programs."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ulos_stream.commands import one_line

if TYPE_CHECKING:
    from ulos_stream.feed import News


def line(news: "News") -> str:
    """Time, task, stage, event, text."""
    text = f"{news.code}: {news.text}" if news.code else news.text
    clock = news.at[11:19]  # of an ISO time
    return "  ".join(one_line(part) or "-" for part in (clock, news.task, news.stage, news.event, text))


def as_json(news: "News") -> str:
    """Everything but the tree, as an object."""
    return json.dumps({name: value for name, value in asdict(news).items() if name != "tree"})
