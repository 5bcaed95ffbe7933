// Light, dark or as the system says; a classic script before the body, so that no page flashes in the wrong colours.
(() => {
  const KEY = "swarm-theme";
  const CHOICES = ["system", "light", "dark"];
  const root = document.documentElement;
  const remembered = () => {
    try {
      return CHOICES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system";
    } catch {
      return "system"; // storage is forbidden here
    }
  };
  const apply = (choice) => {
    if (choice === "system") delete root.dataset.theme;
    else root.dataset.theme = choice;
  };
  let choice = remembered();
  apply(choice);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const tell = () => (button.textContent = `Theme: ${choice}`);
    button.addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      apply(choice);
      tell();
      try {
        localStorage.setItem(KEY, choice);
      } catch {
        // it holds until the page is left
      }
    });
    tell();
  });
})();
