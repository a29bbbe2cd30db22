"""The report in headless Chromium: nothing is complained of, nothing is wider than the window, it prints."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr",
]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]


def browse(page: Path, tmp_path: Path, *options: str) -> str:
    """What Chromium says on stdout; its console has to be silent."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    environment = {**os.environ, "HOME": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert not [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    return ran.stdout


@pytest.mark.parametrize("which", ["finished", "hostile"])
def test_the_report_in_a_browser(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    report = request.getfixturevalue(which) / "search" / "report.html"
    assert "<h1" in browse(report, tmp_path, "--dump-dom")
    for name, options in {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}.items():
        picture = tmp_path / f"{name}.png"
        browse(report, tmp_path, f"--screenshot={picture}", "--window-size=1280,2400", *options)
        assert picture.stat().st_size > 20_000
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()
    browse(report, tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("which", ["finished", "hostile"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_is_as_wide_as_its_window(which: str, width: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In a frame: Chromium's own window cannot be as narrow as a phone."""
    text = (request.getfixturevalue(which) / "search" / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)  # the probe below is a script
    probe = "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script></body>"
    (tmp_path / "inner.html").write_text(text.replace("</body>", probe), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<p id=said></p><script>onmessage = e => { said.textContent = 'wide ' + e.data }</script>"
        f'<iframe src="inner.html" style="border:0;width:{width}px;height:600px"></iframe>'
    )
    said = browse(outer, tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    assert f"wide {width}<" in said
