"""The README's table of options is generated from the settings: this test rewrites it, and fails when it was old."""

from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ulos_stream.settings import Node

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- options: `make test` writes this table -->\n", "<!-- end of options -->\n"


def rows(model: type[BaseModel], prefix: str) -> list[str]:
    found = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += rows(info.annotation, f"{prefix}{name.upper()}_")
        else:
            description = " ".join((info.description or "").split())
            found.append(f"| `{prefix}{name.upper()}` | {shown_default(info)} | {description} |\n")
    return found


def shown_default(info: FieldInfo) -> str:
    if info.default_factory is not None or info.default in (None, (), ""):
        return ""
    return f"`{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


def test_the_table_of_options_is_what_the_settings_say() -> None:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)

    table = "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows(Node, "ULOS_"))
    fresh = f"{before}{BEGIN}\n{table}\n{END}{after}"
    README.write_text(fresh)

    assert text == fresh, "the table of options was old; it is written anew, commit it"


def test_every_option_says_what_it_is() -> None:
    assert [row for row in rows(Node, "ULOS_") if row.endswith("|  |\n")] == []
