"""Finds and reads study files and presets; a file that cannot be read is told in one sentence."""

from dataclasses import dataclass
from pathlib import Path

from dynamoe_search.errors import UsageError
from dynamoe_search.wording import similar

MAX_BYTES = 1_000_000
_LONGEST = 200  # characters of a file name in a message
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundStudy:
    """The text of a study file, and what to call it in messages."""

    text: str
    label: str


def presets_folder() -> Path:
    """Returns the folder of the presets: inside the installed package, or `studies/` of a clone."""
    installed = _PACKAGE / "_studies"
    return installed if installed.is_dir() else _PACKAGE.parent / "studies"


def preset_names() -> list[str]:
    """Returns the names of all presets, in alphabetical order."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def preset_text(name: str) -> str:
    """Returns the TOML text of a preset, comments included.

    Raises:
        UsageError: There is no preset of this name.
    """
    if name not in preset_names():
        raise UsageError(_unknown(name))
    return _read(presets_folder() / f"{name}.toml")


def find_study(source: str) -> FoundStudy:
    """Returns the text of a preset or of a TOML file.

    A bare word is a preset before it is a file, so that a folder called `mnist` does not hide the preset.

    Raises:
        UsageError: There is neither a preset nor a readable file of this name.
    """
    if source in preset_names():
        return FoundStudy(text=preset_text(source), label=f"preset {source}")
    if not source.strip():
        raise UsageError("the name of the study file is empty; give a TOML file or a preset")
    path = Path(source)
    if path.suffix != ".toml" and path.name == source and not path.is_file():
        raise UsageError(_unknown(source))
    return FoundStudy(text=_read(path), label=_shown(source))


def _unknown(name: str) -> str:
    close = similar(name, preset_names())
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"there is no preset or file {_shown(name)}; {hint}presets are {', '.join(preset_names())}; "
        "a study file ends in .toml"
    )


def _read(path: Path) -> str:
    """Returns the text of a regular UTF-8 file of reasonable size."""
    shown = _shown(str(path))
    try:
        if path.is_dir():
            raise UsageError(f"{shown} is a folder; give a TOML file or the name of a preset")
        if not path.exists():
            raise UsageError(f"there is no file {shown}; give a TOML file or the name of a preset")
        if not path.is_file():
            raise UsageError(f"{shown} is not a regular file; give a TOML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {shown}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{shown} is larger than {MAX_BYTES:,} bytes; a study file is short")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown} is not UTF-8 text; a study file is a TOML text") from error
    if "\0" in text:
        raise UsageError(f"{shown} holds a zero byte; a study file is a TOML text")
    return text


def _shown(name: str) -> str:
    """Returns a name that fits into a message, whatever characters it is made of."""
    readable = name if name.isprintable() else repr(name)
    return readable if len(readable) <= _LONGEST else f"{readable[:_LONGEST]}…"
