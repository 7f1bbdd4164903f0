"""A headless Chromium; tests skip, and say why, where there is none."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,1000",
)


@dataclass
class Browser:
    """The driver, with the folder into which a click downloads."""

    driver: Any
    downloads: Path

    def open(
        self, page: Path, *, width: int | None = None, scheme: str = "light"
    ) -> None:
        """Open a page from disk, as wide as asked, in the system's colour scheme."""
        command = self.driver.execute_cdp_cmd
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        command("Emulation.setEmulatedMedia", {"features": features})
        command("Emulation.clearDeviceMetricsOverride", {})
        if width is not None:
            size = {"width": width, "height": 844, "deviceScaleFactor": 2}
            command("Emulation.setDeviceMetricsOverride", {**size, "mobile": True})
        self.driver.get(page.as_uri())
        deadline = time.monotonic() + 20
        while self.script("return document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page did not finish loading"
            time.sleep(0.02)

    def script(self, text: str, *arguments: Any) -> Any:
        """Run a script in the page and return what it returns."""
        return self.driver.execute_script(text, *arguments)

    def find(self, selector: str) -> Any:
        """Return the first element of a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def errors(self) -> list[str]:
        """Return the console's messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def chromium():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("needs chromium and chromedriver (apt: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        downloads = Path(folder, "downloads")
        downloads.mkdir()
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*_FLAGS, f"--user-data-dir={folder}/profile"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # The path is given, so that selenium never looks for a driver to download.
        service = webdriver.ChromeService(executable_path=driver_path)
        driver = webdriver.Chrome(options=options, service=service)
        behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
        # Before the page's own script runs: no test sees another's choice of theme.
        forget = {"source": "try { localStorage.clear(); } catch {}"}
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", forget)
        try:
            yield Browser(driver, downloads)
        finally:
            driver.quit()


@pytest.fixture
def browser(chromium):
    chromium.errors()
    for file in chromium.downloads.iterdir():
        file.unlink()
    return chromium
