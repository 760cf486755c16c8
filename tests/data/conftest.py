import pytest

from endofm.data.video import pyav, timetable


@pytest.fixture
def as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file a long one: sought in, not kept."""
    monkeypatch.setattr(pyav, "_SHORT_FRAMES", 3)
    monkeypatch.setattr(pyav, "_PROBED_FRAMES", 4)
    timetable._remembered.clear()
