from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from sslfeat.commands import list_asked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("kim_sad_1.wav", "lee_joy_2.wav", "\x1b[2Jclear.wav", "new\nline.wav"):
        (tmp_path / name).touch()
    return tmp_path


def test_names_that_would_steer_a_terminal_are_spelt_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = list_asked(corpus_dir=folder, pattern="{speaker}_{label}_{text}.wav", corpus="own\x07")
    told = capsys.readouterr().err
    assert told.splitlines() == [
        f"{folder}: own\\x07, 2 utterances, 2 speakers, 2 labels.",
        "note: 2 files skipped, they don't fit '{speaker}_{label}_{text}.wav': \\x1b[2Jclear.wav, new\\nline.wav.",
    ]
    assert listing.unexpected == ["\x1b[2Jclear.wav", "new\nline.wav"]


def test_what_contradicts_itself_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(click.UsageError, match="pattern and labels-from-folders can't be combined"):
        list_asked(corpus_dir=folder, pattern="{label}", labels_from_folders=True)


@pytest.mark.parametrize(
    ("name", "nearest"), [("EmoDB", "emodb"), ("crema_d", "crema-d"), ("iemocap4", "iemocap-4")]
)
def test_an_unknown_corpus_is_told_with_the_nearest(
    fails: Callable[..., Any], name: str, nearest: str
) -> None:
    match = f"no corpus {name!r}, the nearest is {nearest!r}; known are emodb"
    fails("corpora", name, match=match, status=2)
