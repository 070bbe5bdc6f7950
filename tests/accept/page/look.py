"""Opens each view of a storage, and pages, in Chromium, and prints what it found: ``look.py STORAGE CHROMIUM PAGE ...``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

SIZES = [(width, scheme) for width in (390, 1400) for scheme in ("light", "dark")]
VIEWS = {
    "list": "#/", "run": "#/run/breast-cancer", "sweep": "#/run/sweep", "compare": "#/compare/breast-cancer/again",
    "models": "#/models", "model": "#/model/cancer",
}  # fmt: skip
SHOWN = {"list": ".list tbody tr", "models": ".models td", "model": ".models td", "cost": "svg", "plan": "svg"}
"""What a view has when it is drawn; others have figures."""
EXTENT = "(n) => { const c = [...drawn.values()][n].chart; return %s; }"

CHARTS = "typeof drawn === 'undefined' ? [] : [...drawn.values()].map((each) => each.chart)"
PAGED = f"({CHARTS}).filter((c) => c.getOption().legend?.[0]?.type === 'scroll').length"
LEGENDS = f"""({CHARTS}).filter((c) => c.getOption().legend?.[0]?.show).map((c) => {{
  const legend = c._componentsViews.find((view) => view.type.startsWith("legend")).group;
  const box = legend.getBoundingRect();
  return legend.y + box.y + box.height - c.getModel().getComponent("grid").coordinateSystem.getRect().y;
}}).filter((below) => below > 0)"""
"""By how many pixels legends reach into their figures."""


def main() -> None:
    storage, program, *pages = sys.argv[1:]
    server = subprocess.Popen([sys.executable, "-m", "heliostat", "runs", "open", storage], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        reports = {f"report of {name}": Path(storage, name, "report.html").as_uri() for name in ("breast-cancer", "sweep")}
        reports |= {Path(page).stem: Path(page).as_uri() for page in pages}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            found = []
            for width, scheme in SIZES:
                # The rules of axe are a script of the test's, which the page's policy does not let in.
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True, timezone_id="Asia/Kolkata"
                )
                context.new_page().goto(url)
                for name, place in {**{name: url.split("?")[0] + view for name, view in VIEWS.items()}, **reports}.items():
                    found.append({"name": name, "width": width, "scheme": scheme, **look(context.new_page(), name, place)})
                context.close()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(found))


def look(page: Page, name: str, place: str) -> dict[str, Any]:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(place)
    page.wait_for_selector(SHOWN.get(name, "canvas"), timeout=60_000)
    page.wait_for_load_state("networkidle") if name.startswith("report") else page.wait_for_timeout(500)
    violations = Axe().run(page).response["violations"]
    findings = [f"{each['impact']} {each['id']}: {each['nodes'][0]['html'][:200]}" for each in violations]
    seen = {
        "overlaps": page.evaluate(LEGENDS),
        "paged": page.evaluate(PAGED),
        "errors": errors,
        "findings": findings,
        "needed": page.evaluate("document.documentElement.scrollWidth"),
    }
    if page.viewport_size and page.viewport_size["width"] == 1400 and name in ("run", "sweep"):
        seen |= use(page, name)
    page.close()
    return seen


def use(page: Page, name: str) -> dict[str, Any]:
    """What a mouse does to the first figure."""
    box = page.locator(".chart").first.bounding_box()
    assert box
    left, top, width, height = (box[key] for key in ("x", "y", "width", "height"))
    if name == "sweep":
        # Along the last axis, from its end: `activeState` is that of the lines that the selection leaves.
        lines = (
            EXTENT % "(() => { let on = 0; const s = c.getModel().getSeriesByIndex(0); "
            "s.coordinateSystem.eachActiveState(s.getData(), (state) => { on += state !== 'inactive'; }); return on; })()"
        )
        whole = page.evaluate(lines, 0)
        drag(page, left + width - 70, top + height - 24, left + width - 70, top + height - 70)
        return {"whole": whole, "selected": page.evaluate(lines, 0)}
    page.mouse.move(left + width / 2, top + height / 2)
    page.wait_for_timeout(500)
    tooltip = page.locator(".chart").first.inner_text()
    span = EXTENT % "(() => { const e = c.getModel().getComponent('xAxis').axis.scale.getExtent(); return e[1] - e[0]; })()"
    whole = page.evaluate(span, 0)
    drag(page, left + width * 0.4, top + height / 2, left + width * 0.6, top + height * 0.6)
    return {"tooltip": tooltip, "whole": whole, "zoomed": page.evaluate(span, 0)}


def drag(page: Page, x: float, y: float, to_x: float, to_y: float) -> None:
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move((x + to_x) / 2, (y + to_y) / 2, steps=3)
    page.mouse.move(to_x, to_y, steps=3)
    page.mouse.up()
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main()
