"""Every word by which the source of a class could read a field of its configuration.

A field is read as an attribute (``config.heads``), by a string (``getattr``, a key, a name of ``attribute_map``), as
a parameter that fields are unpacked into, or as a field of the class; one may also hide a method. A word that is none
of these, in neither the family's own files nor those that all families share, cannot be read by them. What is called
is no field: JSON holds nothing that can be. Names that are put together (``f"{part}_token_id"``) stand with a ``*``
for what is put in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

WORD = re.compile(r"[a-z]\w*")
DERIVED = re.compile(r"(?=.*\*)(?=(?:.*[a-z]){3})[a-z_*][\w*]*")
LIBRARIES = {"torch", "nn", "F", "np", "math", "os"}
SHARED = (
    "activations.py", "backbone_utils.py", "cache_utils.py", "configuration_utils.py", "initialization.py",
    "masking_utils.py", "modeling_attn_mask_utils.py", "modeling_flash_attention_utils.py", "modeling_layers.py",
    "modeling_rope_utils.py", "modeling_utils.py", "pytorch_utils.py", "generation/*.py", "integrations/*attention*.py",
    "integrations/moe.py", "integrations/heterogeneity/*.py", "loss/loss_utils.py", "utils/generic.py",
    "utils/output_capturing.py", "vision_utils.py", "core_model_loading.py",
)
"""What every class runs, besides its own files."""
OTHER_FAMILY = re.compile(r"from (?:\.\.|\.\.\.models\.|transformers\.models\.)(\w+)")


def library() -> Path:
    import transformers

    return Path(transformers.__file__).parent


@cache
def shared_files() -> frozenset[Path]:
    return frozenset(path for pattern in SHARED for path in library().glob(pattern))


@cache
def own_files(folder: str) -> frozenset[Path]:
    """The files of a family's classes, and those of other families that they import."""
    found: set[Path] = set()
    rest = [folder]
    while rest:
        new = {path for path in (library() / "models" / rest.pop()).glob("*.py")
               if path.name.startswith(("configuration_", "modeling_"))} - found
        found |= new
        rest += [other for path in new for other in OTHER_FAMILY.findall(path.read_text()) if other != "auto"]
    return frozenset(found)


@cache
def words(path: Path) -> frozenset[str]:
    """The words of one file."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    skipped = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    skipped |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    found = {word for node in nodes if id(node) not in skipped for word in _of(node)}
    if path.name.startswith("configuration_"):
        found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return frozenset(word for word in found if WORD.fullmatch(word) or DERIVED.fullmatch(word))


def _of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id=name)) if name in LIBRARIES:
            pass
        case ast.Attribute(attr=name, ctx=ast.Load()):
            yield name
        case ast.AugAssign(target=ast.Attribute(attr=name)):
            yield name
        case ast.Constant(value=str(text)):
            yield text
        case ast.arg(arg=name) | ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.ClassDef(body=body):
            yield from (target.id for line in body if isinstance(line, ast.Assign)
                        for target in line.targets if isinstance(target, ast.Name))
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add()):
            yield f"{text}*"
        case ast.BinOp(right=ast.Constant(value=str(text)), op=ast.Add()):
            yield f"*{text}"


PUT_IN = {
    "*_layers": "encoder_layers decoder_layers", "*_attention_heads": "encoder_attention_heads decoder_attention_heads",
    "output_*": "output_attentions output_hidden_states output_cross_attentions output_router_logits",
}
"""What all classes put together: sizes of one half of an encoder-decoder, and what a run hands back."""


def shared_words() -> frozenset[str]:
    found = frozenset[str]().union(*map(words, shared_files()))
    return (found - PUT_IN.keys()).union(*(names.split() for names in PUT_IN.values()))


def own_words(folder: str) -> frozenset[str]:
    """The words of a family's files that are not shared by all."""
    return frozenset[str]().union(*map(words, own_files(folder))) - shared_words()
