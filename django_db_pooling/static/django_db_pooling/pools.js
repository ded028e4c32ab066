"use strict";

(() => {
  const pools = document.getElementById("pools");
  const pause = document.getElementById("pause");
  const stale = document.getElementById("stale");
  const announcement = document.getElementById("announcement");
  const period = Number(pools.dataset.seconds) * 1000;
  const timeout = 20000;
  // At most this often (milliseconds) a screen reader is told of a change.
  const announcePeriod = 10000;

  let timer = 0;
  let paused = false;
  let loggedOut = false;
  let state = stateOf(pools);
  let announcedAt = 0;

  // The theme chosen in the admin.
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "light" || theme === "dark") {
      document.documentElement.dataset.theme = theme;
    }
  } catch (error) {
    // No storage.
  }

  function stateOf(part) {
    return part.querySelector("[data-state]")?.dataset.state ?? "";
  }

  function isBeingRead() {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && pools.contains(selection.anchorNode);
  }

  function announce() {
    const newState = stateOf(pools);
    if (newState !== state && Date.now() - announcedAt > announcePeriod) {
      state = newState;
      announcedAt = Date.now();
      announcement.textContent = newState;
    }
  }

  function show(html) {
    const open = new Map([...pools.querySelectorAll("details[id]")].map((part) => [part.id, part.open]));
    const focused = pools.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && (focused.id || focused.parentElement?.id);
    const fresh = new DOMParser().parseFromString(html, "text/html");
    pools.replaceChildren(...fresh.body.childNodes);
    for (const part of pools.querySelectorAll("details[id]")) {
      if (open.has(part.id)) {
        part.open = open.get(part.id);
      }
    }
    if (place && place !== "pools") {
      const found = document.getElementById(place);
      (found?.querySelector("summary") ?? found)?.focus({ preventScroll: true });
    }
    announce();
  }

  function showProblem(text) {
    pools.classList.toggle("stale", text !== "");
    stale.hidden = text === "";
    if (stale.textContent !== text) {
      stale.textContent = text;
      if (text !== "") {
        announcement.textContent = text;
      }
    }
  }

  async function refresh() {
    if (isBeingRead()) {
      return;
    }
    const response = await fetch(pools.dataset.url, {
      credentials: "same-origin",
      redirect: "error",
      signal: AbortSignal.timeout(timeout),
    });
    if (response.status === 403) {
      loggedOut = true;
      showProblem("You are not logged in any more. Reload the page to log in.");
    } else if (response.ok) {
      const html = await response.text();
      if (!paused) {
        show(html);
      }
      showProblem("");
    } else {
      throw new Error(response.status === 503 ? "the database is not available" : `status ${response.status}`);
    }
  }

  async function update() {
    timer = 0;
    if (paused || loggedOut || document.hidden) {
      return;
    }
    try {
      await refresh();
    } catch (error) {
      const since = pools.querySelector("time")?.textContent ?? "a while ago";
      showProblem(`Not updated since ${since} (${error.message}). Trying again.`);
    }
    schedule(period);
  }

  function schedule(delay) {
    if (!timer && !paused && !loggedOut && !document.hidden) {
      timer = setTimeout(update, delay);
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume refresh" : "Pause refresh";
    pools.classList.toggle("paused", paused);
    clearTimeout(timer);
    timer = 0;
    schedule(0);
  });
  pools.addEventListener("submit", (event) => {
    const question = event.target.dataset.question;
    if (question && !confirm(question)) {
      event.preventDefault();
    }
  });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    timer = 0;
    schedule(0);
  });
  schedule(period);
})();
