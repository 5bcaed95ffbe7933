// Runs before the page is drawn, so that it does not flash in the other colours.
"use strict";
{
  let theme = null;
  try {
    theme = localStorage.getItem("swarm.theme");
  } catch {
    // storage may be forbidden: the system's colours are used
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
