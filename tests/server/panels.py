"""The frontend with the Taste panel open, and what it shows."""

from __future__ import annotations


def open_panels(server, chromium):
    """Opens the frontend with the tab Taste and a person chosen, in a window of its own; complaints are collected."""
    contexts = []

    def open_(person, language="en", width=1400, height=900, has_tab=True):
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                message.type == "error"
                and ("ppd" in message.text or "/extensions/personalized" in message.location.get("url", ""))
                and page.complaints.append(message.text)
            ),
        )
        page.add_init_script(f"localStorage.setItem('ppd.person', '{person}')")
        show(server, page, language, has_tab)
        return page

    yield open_
    complaints = [line for context in contexts for page in context.pages for line in page.complaints]
    for context in contexts:
        context.close()
    assert not complaints


def show(server, page, language="en", has_tab=True):
    server.post("/settings", {"Comfy.TutorialCompleted": True})  # else templates open over the page
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PreferenceCollector' in LiteGraph.registered_node_types", timeout=90_000)
    page.evaluate(f"app.extensionManager.setting.set('Comfy.Locale', '{language}')")
    page.wait_for_function("app.extensionManager.sidebarTab.sidebarTabs.some(tab => tab.id === 'ppd-taste')")
    if not has_tab:
        return
    if not page.locator(".ppd-taste").count():
        page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
    page.locator(".ppd-taste .progress").wait_for()


def shown(page):
    """The prompt of the question that is looked at."""
    return page.locator(".ppd-taste .prompt").inner_text()


def wait_for_picks(page, picks, waiting):
    page.locator(".ppd-taste .progress").get_by_text(f"Picks: {picks}. Questions waiting: {waiting}.").wait_for()
