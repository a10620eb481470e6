"""Console scripts, run in the process of the tests: a process of its own takes ten seconds to import everything."""

from __future__ import annotations

import pytest


class Shell:
    """Runs a console script in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, module: object, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr("sys.argv", ["command", *arguments])
        with pytest.raises(SystemExit) as ended:
            module.main()  # type: ignore[attr-defined]
        out, err = self._capsys.readouterr()
        return int(ended.value.code or 0), out, err
