"""Places of presets: the user's own directory, then the built-in ones, each searched by name and then by alias.

In each, the exact spelling comes before one that differs only in case, ``-`` and ``_``. Nothing but file names is
read to find a name; for an alias, the ``aliases`` field of each file, and the repository on the Hugging Face hub whose
``config.json`` it says it was read from. With its organisation before it, any name of such a preset leads to it. Last,
the beginning of a name will do where one preset alone has it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Final, Literal

from txcalc.spec.errors import SpecError
from txcalc.spec.files import explained, read_text

DIRECTORY_VARIABLE: Final = "TXCALC_PRESETS"
"""Names the user's directory of presets; empty for none. Without it, it is ``presets`` in txcalc's config directory."""

CACHE_VARIABLE: Final = "TXCALC_CACHE"
"""Names the folder of models that were read before; empty for none. Without it, it is in the user's cache directory."""

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120


def built_in_folder() -> str:
    """The presets inside the wheel; for an editable install, the checkout's own."""
    inside = os.path.join(_PACKAGE, "_presets")  # noqa: PTH118
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(_PACKAGE), "presets")  # noqa: PTH112, PTH118, PTH120


def user_folder() -> str | None:
    """The user's own presets, if there are any."""
    folder = os.environ.get(DIRECTORY_VARIABLE)
    if folder is None:
        import platformdirs  # not needed where the variable is set

        folder = os.path.join(platformdirs.user_config_dir("txcalc", appauthor=False), "presets")  # noqa: PTH118
        if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir raises where a parent may not be entered
            return None
    return folder or None


def cache_folder() -> str | None:
    """The folder of models that were read before, if they are kept."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder is None:
        import platformdirs

        folder = os.path.join(platformdirs.user_cache_dir("txcalc", appauthor=False), "models")  # noqa: PTH118
    return folder or None


_ALIASES: Final = re.compile(r"^aliases:.*(?:\n(?:[ \t#\]-].*)?)*", re.MULTILINE)

_HUB: Final = re.compile(r"config\.json of ([\w.-]+/[\w.-]*\w)")

_MOST: Final = 12
"""The most members of a family that one line lists."""

Origin = Literal["built-in", "user"]


@dataclass(frozen=True)
class PresetFile:
    """A preset as a file, called by the file's name and the folder's, not read yet.

    ``taken``: names, folded, by which files of the user's are called that come before it.
    """

    name: str
    family: str | None
    path: str
    origin: Origin
    taken: frozenset[str] = frozenset()

    @cached_property
    def text(self) -> str:
        """The file's text. Raises SpecError if it cannot be read."""
        return read_text(self.path)

    @cached_property
    def naming(self) -> str:
        """All in the file that it may be called by, folded: most files are not looked at closer."""
        try:
            match = _ALIASES.search(self.text)
        except SpecError:  # what is wrong with a file that is not asked for does not matter
            match = None
        return _folded(f"{self.name} {match[0] if match else ''}")

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        """Read from that one field alone: it is quick, and what is wrong elsewhere in the file does not matter."""
        try:
            match = _ALIASES.search(self.text)
            from txcalc.spec.yaml import read_yaml  # not needed to find a file by its name

            found = read_yaml(match[0], "").data["aliases"] if match else None
        except SpecError:
            return ()
        names = (name for name in found if isinstance(name, str)) if isinstance(found, list) else ()
        return tuple(name for name in names if _folded(name) not in self.taken)

    @cached_property
    def repositories(self) -> tuple[str, ...]:
        """``org/name`` on the hub: those of its aliases, and where it was read from if that is called like it."""
        own = set(map(_folded, (self.name, *(alias.rpartition("/")[2] for alias in self.aliases))))
        found = [name for name in _HUB.findall(self.text) if _folded(name.partition("/")[2]) in own]
        return tuple(dict.fromkeys([*(alias for alias in self.aliases if "/" in alias), *found]))

    def label_for(self, asked: str) -> str:
        """The label in a report: with both names where somebody asked for it by another."""
        return self.label if asked == self.name else f"{self.label}, asked for as {asked}"

    @property
    def label(self) -> str:
        """The label in a report: ``preset gpt2``, with the path if it is the user's, and with what it hides."""
        if self.origin == "built-in":
            return f"preset {self.name}"
        hidden = self.shadows
        return f"preset {self.name} ({self.path}{f', in place of the built-in {hidden}' if hidden else ''})"

    @property
    def shadows(self) -> str | None:
        """The built-in preset that its name or an alias of it hides."""
        others = built_in() if self.origin == "user" else ()
        return next((other.name for other in others if _all_names(self) & _all_names(other)), None)


def names() -> list[PresetFile]:
    """Every preset that a name leads to: the user's own, then the built-in ones that those do not hide.

    A file is not validated for this, so a broken one is listed like any other. Raises SpecError if the user's
    directory cannot be read.
    """
    user = _user()
    hidden = frozenset(name for file in user for name in _all_names(file))
    rest = [replace(file, taken=hidden) for file in built_in()] if hidden else built_in()
    return [*user, *(file for file in rest if _folded(file.name) not in hidden)]


def state() -> list[tuple[str, int, int]]:
    """Every preset's file with its size and time: where they are equal, so is all that is said of presets."""
    return [_state(file.path) for file in (*_user(), *built_in())]


def _state(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:  # a link to nothing: listed as what cannot be read
        return path, -1, -1
    return path, found.st_size, found.st_mtime_ns


def find(name: str) -> PresetFile | None:
    """The preset of this name or alias, or the only one whose name begins so. Raises SpecError if there are two."""
    places = (_user(), built_in())
    found = find_in(name, places)
    if found is None and len(own := members(name)) == 1:
        return find_in(own[0], places)
    return found


def members(name: str) -> list[str]:
    """The presets of a family, or of a name's first part: ``llama3`` for llama3-8b, llama3.1-8b and so on."""
    letters = _folded(name)
    if not re.fullmatch(r"[a-z][a-z0-9.]+", letters):
        return []
    begins = re.compile("[-_]?".join(map(re.escape, letters)) + "(?=[-_.])", re.IGNORECASE)
    return [info.name for info in names()
            if _folded(info.family or "") == letters or any(map(begins.match, (info.name, *info.aliases)))]


def find_in(name: str, places: Iterable[Sequence[PresetFile]]) -> PresetFile | None:
    """The preset of this name or alias in the first of the places that has one."""
    for files in places:
        if found := _one(name, files, lambda file: (file.name,)):
            return found
        last = _folded(name.rpartition("/")[2])
        near = [file for file in files if last in file.naming]
        if found := _one(name, near, _aliases):
            return found
        if "/" in name and (of_it := [file for file in near if _of_organisation(file, name)]):
            return of_it[0]
    return None


def _of_organisation(file: PresetFile, name: str) -> bool:
    organisation, _, rest = name.casefold().partition("/")
    return _folded(rest) in _all_names(file) and organisation in (
        repository.casefold().partition("/")[0] for repository in file.repositories)


def unknown(name: str) -> SpecError:
    """The error for a name that ``find`` does not know, with up to three that it does."""
    shown = repr(name if len(name) <= 60 else name[:59] + "…")
    if own := members(name):
        more = f" and {len(own) - _MOST} more ('txcalc presets --search {name}')" if len(own) > _MOST else ""
        return SpecError(f"{shown} could be any of {', '.join(own[:_MOST])}{more}")
    if "/" in name:
        return SpecError(f"no such file and no such preset; hf:{name} reads its config.json from the hub", source=name)
    close = _nearest(name)
    listed = " or ".join(filter(None, (", ".join(close[:-1]), *close[-1:])))
    hint = f"did you mean {listed}?" if close else "'txcalc presets' lists them; a file needs its path"
    return SpecError(f"unknown preset {shown}; {hint}")


def beside(name: str) -> str:
    """The text of a data file that stands beside the built-in presets."""
    return read_text(os.path.join(built_in_folder(), name))  # noqa: PTH118


@cache
def built_in() -> tuple[PresetFile, ...]:
    """The presets that come with txcalc, in the order in which they are listed: found once, since none are added."""
    return tuple(sorted(_files(built_in_folder(), "built-in"), key=_order))


def _user() -> list[PresetFile]:
    folder = user_folder()
    if folder is None:
        return []
    with explained(folder, "presets cannot be read"):
        return sorted(_files(folder, "user"), key=_order)


def _files(root: str, origin: Origin, family: str | None = None) -> Iterator[PresetFile]:
    """The YAML files of a folder and of the folders in it, which are the families."""
    for entry in os.scandir(root):
        stem, dot, suffix = entry.name.rpartition(".")
        if stem and dot + suffix in (".yaml", ".yml"):
            yield PresetFile(stem, family, entry.path, origin)
        elif family is None and not entry.name.startswith(".") and entry.is_dir():
            yield from _files(entry.path, origin, entry.name)


def _order(file: PresetFile) -> tuple[str, str]:
    return file.family or "", file.name


def _folded(name: str) -> str:
    return re.sub("[-_]", "", name.casefold())


def _aliases(file: PresetFile) -> tuple[str, ...]:
    """With its organisation and without."""
    return (*file.aliases, *(alias.rpartition("/")[2] for alias in file.aliases if "/" in alias))


def _all_names(file: PresetFile) -> frozenset[str]:
    return frozenset(map(_folded, (file.name, *_aliases(file))))


def _one(
    name: str, files: Iterable[PresetFile], called: Callable[[PresetFile], tuple[str, ...]]
) -> PresetFile | None:
    """The one file called so, by the exact spelling if there is one. Raises SpecError if there are two."""
    for spelt in (str, _folded):
        matches = [file for file in files if spelt(name) in map(spelt, called(file))]
        if len(matches) > 1:
            raise SpecError(f"preset {name!r} could be {' or '.join(file.path for file in matches)}")
        if matches:
            return matches[0]
    return None


def _nearest(name: str) -> list[str]:
    """Up to three presets, and only those that are about as near as the nearest."""
    if len(name) > 100:  # difflib's time grows with the square of the length
        return []
    import difflib

    score: dict[str, float] = {}
    for info in names():
        for known in (info.name, *info.aliases):
            ratio = difflib.SequenceMatcher(None, _folded(name), _folded(known)).ratio()
            score[info.name] = max(ratio, score.get(info.name, 0.0))
    ranked = sorted(score, key=lambda known: -score[known])[:3]
    return [known for known in ranked if score[known] >= max(0.6, score[ranked[0]] - 0.1)]
