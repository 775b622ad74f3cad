// The table of rules shows the rows that hold every word typed into the field above it.
document.addEventListener("DOMContentLoaded", () => {
  const field = document.getElementById("rule-filter");
  if (!field) return;
  const rows = [...document.querySelectorAll("article table tbody tr")];
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("rule-count").textContent = `${shown} of ${rows.length} rules`;
    const address = new URL(location);
    if (words.length) address.searchParams.set("filter", field.value);
    else address.searchParams.delete("filter");
    if (location.protocol !== "file:") history.replaceState(null, "", address);
  };
  field.value = new URLSearchParams(location.search).get("filter") || "";
  field.addEventListener("input", show);
  show();
});
