"""The frontend with the Taste panel open, what it shows, and when it is done with what was pressed."""

from __future__ import annotations

import time

GRAPH = "JSON.stringify(app.graph.serialize())"
FOLD = """() => {
    for (const part of document.querySelectorAll('.ppd-taste details[open] > summary')) part.click();
    const [two, ...others] = document.querySelectorAll('.ppd-taste .sizes button');
    if (others.some(one => one.ariaPressed === 'true')) two.click();
    document.querySelector('.ppd-taste .header .row > button[aria-pressed=true]')?.click();
}"""
"""Whatever a test unfolded or set in the panel, as it was."""
CHOSEN = "person => localStorage.getItem('ppd.person') === person"
TOLD = """async () => {
    if ((await (await app.api.fetchApi('/queue')).json()).queue_pending.length) return;
    await new Promise(done => {
        app.api.addEventListener('status', done, { once: true });
        const headers = { 'Content-Type': 'application/json' };
        app.api.fetchApi('/queue', { method: 'POST', headers, body: '{"clear": true}' });
    });
}"""
"""News come one after the other: those of the queue, cleared while it is empty, after all told till now."""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

STEADY = """async () => {
    const end = performance.now() + 60_000;
    for (let seen, times = 0; times < 10;) {
        if (performance.now() > end) throw new Error(`It changes still: ${seen}`);
        await (DRAWN)();
        const found = EXPRESSION;
        const now = JSON.stringify(typeof found === 'function' ? found() : found);
        [seen, times] = [now, now === seen ? times + 1 : 0];
        if (times === 10) return JSON.parse(seen);
    }
}"""


class Windows:
    """Windows of one browser profile, kept from test to test, since the frontend takes seconds to open."""

    def __init__(self, server, chromium):
        self.server, self.chromium, self.context, self.used = server, chromium, None, []
        self.renew()

    def renew(self):
        """Forgets all windows, and what they kept in the browser."""
        if self.context:
            self.context.close()
        self.context, self.kept = self.chromium.new_context(), []
        self.context.set_default_timeout(60_000)

    def open(self, person, language="en", width=1400, height=900, has_tab=True, is_new=False):
        """A window with the tab Taste and a person chosen. One that `is_new` was no other test's, and becomes none."""
        page = self.kept.pop() if self.kept and not is_new else None
        is_kept = page is not None
        if page is None:
            page = watched(self.context.new_page())
        page.complaints, page.is_kept = [], not is_new
        self.used.append(page)
        page.set_viewport_size({"width": width, "height": height})
        if is_kept:
            self._again(page)
        else:
            show(self.server, page, language)
            page.graph = page.evaluate(GRAPH)
        choose(page, person)
        if not has_tab:
            toggle(page)
        return page

    def _again(self, page):
        page.mouse.move(0, 0)
        page.evaluate("document.querySelector('.ppd-taste.page .close')?.click()")
        if page.locator(".ppd-taste").count():
            toggle(page)
        page.evaluate("graph => app.loadGraphData(JSON.parse(graph))", page.graph)
        toggle(page)
        page.locator(".ppd-taste .progress").wait_for()
        page.evaluate(FOLD)

    def end_test(self):
        """Keeps what was opened for the next test; nothing may have been complained of."""
        complaints = [line for page in self.used for line in page.complaints]
        for page in self.used:
            page.unroute_all()
            if page.is_kept and not complaints:
                self.kept.append(page)
            else:
                page.close()
        self.used.clear()
        assert not complaints, complaints


def watched(page):
    """The page, which notes its complaints that are about us, how many of our requests it sends, and those without an
    answer."""
    page.waiting, page.sent = set(), 0

    def note(request):
        if "/ppd/" in request.url or request.url.endswith("/prompt"):
            page.sent += 1
            page.waiting.add(request)

    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            message.type == "error"
            and ("ppd" in message.text or "/extensions/personalized" in message.location.get("url", ""))
            and page.complaints.append(message.text)
        ),
    )
    page.on("request", note)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda one: page.waiting.discard(one))
    return page


def show(server, page, language="en"):
    """Opens the frontend in the page, with the tab."""
    server.post("/settings", {"Comfy.TutorialCompleted": True})  # else templates open over the page
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function("window.app?.extensionManager && window.app.canvas && window.app.graph", timeout=90_000)
    page.wait_for_function("'PPD_PreferenceCollector' in LiteGraph.registered_node_types", timeout=90_000)
    page.evaluate(f"app.extensionManager.setting.set('Comfy.Locale', '{language}')")
    page.wait_for_function("app.extensionManager.sidebarTab.sidebarTabs.some(tab => tab.id === 'ppd-taste')")
    if not page.locator(".ppd-taste").count():
        toggle(page)
    page.locator(".ppd-taste .progress").wait_for()


def toggle(page):
    """Closes the tab where it is open, and opens it where it is not."""
    is_open = page.locator(".ppd-taste").count()
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('ppd-taste')")
    page.locator(".ppd-taste").wait_for(state="detached" if is_open else "visible")


def choose(page, person):
    """Chooses a person in the tab, as by hand; of who was made by the store alone, the page is told first."""
    page.evaluate("person => app.api.dispatchCustomEvent('ppd.taste', { person, revision: 0 })", person)
    if not page.evaluate(CHOSEN, person):
        page.locator(".ppd-taste .row > select").first.select_option(person)
        page.wait_for_function(CHOSEN, arg=person)
    settle(page)
    page.evaluate("document.activeElement.blur()")


def settle(page, asking=0):
    """Waits until the page has done all that came of what was pressed till now: its requests, but for so many that are
    `asking` still, have their answers, the server's news of them have come, and all that is drawn."""
    quiet, end = 0, time.monotonic() + 60
    while quiet < 2:  # an answer that has come may be read a little later, and the next request only then sent
        assert time.monotonic() < end, [one.url for one in page.waiting]
        sent = page.sent
        if len(page.waiting) <= asking:
            page.evaluate(TOLD)
        page.evaluate(DRAWN)
        quiet = quiet + 1 if len(page.waiting) <= asking and page.sent == sent else 0


def until(page, holds):
    """Waits until `holds()`, while the page goes on. Playwright's wait_for_function takes any promise for a yes."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def steady(page, expression):
    """What an expression gives once it stays the same: nodes measure themselves after they are drawn. The page looks
    by itself, since telling us all that it saw would take longer than to draw it."""
    return page.evaluate(STEADY.replace("EXPRESSION", expression).replace("DRAWN", DRAWN))


def graph_of(page):
    """The open workflow as it would be saved."""
    return steady(page, GRAPH)


def loaded(page, selector):
    """Waits until there are pictures of a selector and all are loaded and drawn: no key acts on others."""
    page.wait_for_function(
        "selector => { const found = [...document.querySelectorAll(selector)];"
        " return found.length && found.every(image => image.complete && image.naturalWidth); }",
        arg=selector,
    )
    page.evaluate(DRAWN)


def pick(page, key):
    """Presses a key in the tab once the question's pictures are loaded."""
    loaded(page, ".ppd-taste .picture img")
    page.locator(".ppd-taste").press(key)


def shown(page):
    """The prompt of the question that is looked at."""
    return page.locator(".ppd-taste .prompt").inner_text()


def wait_for_picks(page, picks, waiting):
    page.locator(".ppd-taste .progress").get_by_text(f"Picks: {picks}. Questions waiting: {waiting}.").wait_for()
