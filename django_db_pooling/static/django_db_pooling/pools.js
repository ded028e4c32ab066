"use strict";

(() => {
  const pools = document.getElementById("pools");
  const pause = document.getElementById("pause");
  const stale = document.getElementById("stale");
  const announcement = document.getElementById("announcement");
  const period = Number(pools.dataset.seconds) * 1000;
  const patience = 20000;
  // What a screen reader says at most this often.
  const quiet = 10000;

  let timer = 0;
  let paused = false;
  let over = false;
  let state = stateOf(pools);
  let announcedAt = 0;

  // The admin's own choice of light or dark.
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
    const news = stateOf(pools);
    if (news !== state && Date.now() - announcedAt > quiet) {
      state = news;
      announcedAt = Date.now();
      announcement.textContent = news;
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

  function complain(text) {
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
      signal: AbortSignal.timeout(patience),
    });
    if (response.status === 403) {
      over = true;
      complain("You are not logged in any more. Load the page again to log in.");
    } else if (response.ok) {
      const html = await response.text();
      if (!paused) {
        show(html);
      }
      complain("");
    } else {
      throw new Error(response.status === 503 ? "the database could not be asked who you are" : `status ${response.status}`);
    }
  }

  async function turn() {
    timer = 0;
    if (paused || over || document.hidden) {
      return;
    }
    try {
      await refresh();
    } catch (error) {
      const since = pools.querySelector("time")?.textContent ?? "a while ago";
      complain(`No figures since ${since} (${error.message}). Trying again.`);
    }
    schedule(period);
  }

  function schedule(delay) {
    if (!timer && !paused && !over && !document.hidden) {
      timer = setTimeout(turn, delay);
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    pools.classList.toggle("paused", paused);
    clearTimeout(timer);
    timer = 0;
    schedule(0);
  });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    timer = 0;
    schedule(0);
  });
  schedule(period);
})();
