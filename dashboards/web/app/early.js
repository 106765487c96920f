// Before anything is drawn, so that nobody who chose dark sees a flash of light.
{
  const chosen = localStorage.getItem("loraloom-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
