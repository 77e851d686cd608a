"""Generates docs/reference.md from the schemas in crds/: `python -m docs.generate`, and `--check` to compare only."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference.md"
CRDS = ("dspyprograms", "dspyrollouts")
REFUSED = "Not allowed."
"""The description of a field that is in the schema only to be refused in words."""

HEAD = """# Reference of the resources

Generated from the schemas in `crds/` by `make docs`. Defaults stand in the descriptions.
"""


def reference() -> str:
    """The whole page."""
    return HEAD + "".join(_resource(yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())) for name in CRDS)


def _resource(crd: Mapping[str, Any]) -> str:
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    short = ", ".join(f"`{name}`" for name in names["shortNames"])
    parts = [
        f"\n## {names['kind']}\n\n{schema['description']}\n",
        f"`{crd['spec']['group']}/{version['name']}`, plural `{names['plural']}`, short {short}.\n",
    ]
    for rule in schema.get("x-kubernetes-validations", ()):
        parts.append(f"\nRule: {rule['message']}.\n")
    for part in ("spec", "status"):
        parts.append(f"\n### {names['kind']}.{part}\n\n| field | type | what it is |\n|---|---|---|\n")
        parts += [f"| `{path}` | {kind} | {words} |\n" for path, kind, words in _fields(schema["properties"][part], "")]
    columns = ", ".join(
        f"{column['name'].upper()}{' (wide)' if column.get('priority') else ''}"
        for column in version["additionalPrinterColumns"]
    )
    parts.append(f"\nColumns of `kubectl get`: {columns}.\n")
    return "".join(parts)


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        if field.get("description") == REFUSED:
            continue
        here = f"{path}.{name}" if path else name
        yield here, _type(field), _words(field, name in required)
        inner = field.get("items", field)
        yield from _fields(inner, f"{here}[]" if "items" in field else here)


def _type(field: Mapping[str, Any]) -> str:
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {field['additionalProperties'].get('type', 'any')}"
    return str(field["type"])


def _words(field: Mapping[str, Any], required: bool) -> str:
    parts = ["**Required.**"] if required else []
    parts.append(field.get("description", ""))
    if "enum" in field:
        parts.append("One of " + ", ".join(f"`{value}`" for value in field["enum"]) + ".")
    if "minimum" in field and "maximum" in field:
        parts.append(f"From {field['minimum']} to {field['maximum']}.")
    elif "minimum" in field or "maximum" in field:
        parts.append(f"At least {field['minimum']}." if "minimum" in field else f"At most {field['maximum']}.")
    parts += [f"Rule: {rule['message']}." for rule in field.get("x-kubernetes-validations", ())]
    return " ".join(part for part in parts if part).replace("|", "\\|")


@click.command()
@click.option("--check", is_flag=True, help="Fail when the page is not what the schemas say.")
def main(check: bool) -> None:
    """Writes the page, or checks it."""
    if not check:
        TARGET.write_text(reference())
    elif not TARGET.exists() or TARGET.read_text() != reference():
        sys.exit("docs/reference.md is not what the schemas in crds/ say: run `make docs` and commit the result")


if __name__ == "__main__":
    main()
