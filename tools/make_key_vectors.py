"""Writes protos/mge_cache/v1/key_vectors.json, the examples for clients in other languages.

    python -m tools.make_key_vectors [--check] [FILE]

The file is for reading by machines: pure ASCII, and every number that matters is inside a text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mge_cache import canonical_json
from mge_cache._key import encode_identity, prompt_key

if TYPE_CHECKING:
    from collections.abc import Mapping

VECTORS = Path(__file__).parent.parent / "protos/mge_cache/v1/key_vectors.json"

ABOUT = (
    "Examples of the canonical key, which the head of cache_service.proto specifies. In `keys`, "
    "`temperature` is a number or null (unset), `parameters` maps names to JSON texts as they "
    "are sent, `encoding` is what is hashed and `key` its SHA-256, both in hexadecimal. Vectors "
    "with the same `group` have the same key; all others differ. In `json`, `input` is a JSON text "
    "and `canonical` the form in which clients send its value as a parameter."
)

# name: what differs from the first one; `group` where the key must not differ
CASES: tuple[tuple[str, dict[str, object]], ...] = (
    ("plain", {"group": "plain"}),
    ("empty namespace means default", {"namespace": "", "group": "plain"}),
    ("another namespace", {"namespace": "default2"}),
    ("another model", {"model": "model-b"}),
    ("temperature 0", {"temperature": 0.0, "group": "zero"}),
    ("temperature -0", {"temperature": -0.0, "group": "zero"}),
    ("temperature 1", {"temperature": 1.0}),
    ("temperature 0.7", {"temperature": 0.7}),
    ("smallest temperature", {"temperature": 5e-324}),
    ("empty prompt", {"prompt": ""}),
    ("a byte moved from the prompt to the model", {"model": "model-ah", "prompt": "ello"}),
    ("a zero byte", {"prompt": "hello\0"}),
    ("composed umlaut", {"prompt": "\u00fc"}),
    ("decomposed umlaut: not normalised", {"prompt": "u\u0308"}),
    ("emoji of several code points", {"prompt": "\U0001f469\u200d\U0001f680 \U0001f1ea\U0001f1fa"}),
    ("one parameter", {"parameters": {"max_tokens": "1024"}}),
    ("its value as text", {"parameters": {"max_tokens": '"1024"'}}),
    ("an empty value", {"parameters": {"max_tokens": ""}}),
    ("an empty name", {"parameters": {"": "1024"}}),
    (
        "two parameters",
        {"parameters": {"system": '"Be brief."', "max_tokens": "1"}, "group": "two"},
    ),
    (
        "two parameters, in another order",
        {"parameters": {"max_tokens": "1", "system": '"Be brief."'}, "group": "two"},
    ),
    ("names that are prefixes of each other", {"parameters": {"a": "1", "aa": "2", "ab": "3"}}),
    ("a boundary moved", {"parameters": {"a": "1a", "a2": "ab3"}}),
    (
        # U+1F600 is after U+FB33 by its bytes, before it by UTF-16 code units
        "names in the order of their bytes",
        {"parameters": {"\U0001f600": "1", "\ufb33": "2", "z": "3", "Z": "4"}},
    ),
    (
        "messages",
        {
            "prompt": "",
            "parameters": {
                "messages": '[{"content":[{"text":"Say \\"hi\\"\\n","type":"text"}]}]',
                "tools": "[]",
            },
        },
    ),
    ("a number beyond 2^53", {"parameters": {"seed": "9007199254740993"}}),
)

JSON_INPUTS: tuple[str, ...] = (
    "1.0",
    "-0.0",
    "100",
    "1e2",
    "0.1",
    "1E30",
    "4.50",
    "2e-3",
    "0.000001",
    "1e-7",
    "123456789012345680000.0",
    "1e21",
    "1.5e300",
    "-1.5e-9",
    "5e-324",
    "333333333.33333329",
    "9007199254740993",
    "-123456789012345678901234567890",
    '"\\u20ac$\\u000f\\nA\'B\\"\\\\\\/\\u007f\\ud83d\\ude00"',
    '{"\\u20ac":1,"\\r":2,"\\ufb33":3,"1":4,"\\ud83d\\ude00":5,"\\u0080":6,"\\u00f6":7,"":8}',
    '[ null, true, false, [ ], { }, {"b": [1.0, {"d": 1, "c": 2}], "a": "x"} ]',
)


def key_vector(name: str, changes: Mapping[str, object]) -> dict[str, object]:
    """Compute one vector."""
    fields: dict[str, object] = {
        "namespace": "default",
        "model": "model-a",
        "temperature": None,
        "prompt": "hello",
        "parameters": {},
        **changes,
    }
    group = fields.pop("group", name)
    encoding = encode_identity(**fields)  # type: ignore[arg-type]
    key = prompt_key(**fields)  # type: ignore[arg-type]
    return {"name": name, "group": group, **fields, "encoding": encoding.hex(), "key": key.hex()}


def vectors() -> str:
    """Return the text of the file."""
    content = {
        "about": ABOUT,
        "keys": [key_vector(name, changes) for name, changes in CASES],
        "json": [
            {"input": text, "canonical": canonical_json(json.loads(text))} for text in JSON_INPUTS
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with --check say whether it is up to date."""
    names = [argument for argument in arguments if argument != "--check"]
    file = Path(names[0]) if names else VECTORS
    if "--check" not in arguments:
        file.write_text(vectors(), encoding="ascii")
        return 0
    if file.read_text(encoding="ascii") == vectors():
        return 0
    print(f"{file} is stale: python -m tools.make_key_vectors", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
