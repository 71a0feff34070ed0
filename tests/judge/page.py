"""The table of all model types as a page of the documentation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from judge.verdict import Verdict

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"
QUANTITIES = ("weights", "active", "FLOPs", "cache")
HEAD = """# What is read of transformers {version}

Every model type of the library, judged by its own classes: random configurations of small, mostly prime sizes are read
and built on the meta device, and compared. `python -m tests.judge` (half an hour) writes this page; `python -m
tests.judge llama t5` judges some, and puts them into it. A column says in how many draws a quantity was equal: the
shapes of all weights, parameters that a token passes, FLOPs of a prefill in eager attention, and the bytes that it
leaves in the cache. A column without a number is compared by other tests: images, recurrences, encoders of
encoder-decoders.

{summary}.
"""
ROW = re.compile(r"^\| `([^`]+)` \| (\w+) \|", re.MULTILINE)
LINE = re.compile(rf"{ROW.pattern}.*$", re.MULTILINE)


def all_types() -> list[str]:
    """The types of the installed library and those that are read besides."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from txcalc.huggingface.families import FAMILIES

    return sorted({*CONFIG_MAPPING, *FAMILIES})


def uses(read: Mapping[str, str]) -> str:
    """How many types of each use are exact, and which image classifiers have no attention, by the library's source."""
    import transformers
    from transformers.models.auto import modeling_auto as auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    names = {"causal LM": "CAUSAL_LM", "masked LM": "MASKED_LM", "seq2seq": "SEQ_TO_SEQ_CAUSAL_LM", "image-text":
             "IMAGE_TEXT_TO_TEXT", "multimodal": "MULTIMODAL_LM", "image classifiers": "IMAGE_CLASSIFICATION"}
    exact = {name for name, line in read.items() if "| exact |" in line}
    each = {use: set(getattr(auto, f"MODEL_FOR_{name}_MAPPING_NAMES")) for use, name in names.items()}
    models = Path(transformers.__file__).parent / "models"

    def attends(name: str) -> bool:
        folder = models / CONFIG_MAPPING[name].__module__.split(".")[2]
        return any(re.search(r"^class \w*Attention", file.read_text("utf-8"), re.MULTILINE)
                   for file in folder.glob("modeling_*.py"))

    images = each["image classifiers"]
    without = sorted(name for name in images if not attends(name))
    counted = ", ".join(f"{use} {len(found & exact)} of {len(found)}" for use, found in each.items())
    return (f"Of the types with a head, by use: {counted}. Of the image classifiers {len(without)} have no class of "
            f"attention in their source, so that they are convolutions or pooling and not read: "
            f"{', '.join(f'`{name}`' for name in without)}. Of the {len(images) - len(without)} others "
            f"{len(images & exact)} are exact.\n")


def as_page(lines: Mapping[str, str], unknown: Mapping[str, str]) -> str:
    """The page of the lines of types that are read, and of those that are not, with what is said of them."""
    import transformers

    words = Counter(rows("\n".join(lines.values())).values()) | Counter(unknown=len(unknown))
    summary = ", ".join(f"{words[word]} {word}" for word in ("exact", "wrong", "refused", "unknown"))
    text = HEAD.format(version=transformers.__version__, summary=summary)
    text += f"\n{uses(lines)}"
    text += f"\n| type | verdict | {' | '.join(QUANTITIES)} | |\n|---|---|{'---|' * len(QUANTITIES)}---|\n"
    text += "".join(f"{line}\n" for _, line in sorted(lines.items()))
    near = [f"`{name}` ({detail})" for name, detail in sorted(unknown.items()) if detail]
    return f"{text}\n## Unknown\n\nA family's row would do for these: {', '.join(near) or 'none'}.\n\nThe others: " + (
        ", ".join(f"`{name}`" for name, detail in sorted(unknown.items()) if not detail) + ".\n")


def rows(text: str) -> dict[str, str]:
    """The verdict on every type that the table holds."""
    return dict(ROW.findall(text))


def write(found: Mapping[str, Verdict]) -> None:
    """Put these verdicts in the place of those that the page holds."""
    text = PAGE.read_text("utf-8")
    lines = {found[1]: found[0] for found in LINE.finditer(text)}
    unknown = dict(re.findall(r"`([^`]+)`(?: \((\w+)\))?", text.partition("## Unknown")[2]))
    for name, verdict in found.items():
        numbers = " | ".join(str(verdict.compared.get(quantity, "")) for quantity in QUANTITIES)
        if verdict.word == "unknown":
            unknown[name] = verdict.detail
        else:
            unknown.pop(name, None)
            lines[name] = f"| `{name}` | {verdict.word} | {numbers} | {verdict.detail} |"
    PAGE.write_text(as_page(lines, unknown), "utf-8")
