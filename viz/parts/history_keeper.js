// Keeps the history of the open models in this browser, and hands back once per page what it held before.
// Two tabs of one browser write to the same place: what another one added stays, what was deleted goes.
const PREFIX = "explorer-history:";
const asked = new Set();

function stored(models) {
  try {
    const held = JSON.parse(localStorage.getItem(PREFIX + models));
    return held && held.version === VERSION && Array.isArray(held.settings) ? held : null;
  } catch (error) {
    return null;
  }
}

function keep(value) {
  const held = stored(value.models) || { settings: [] };
  const removed = new Set(value.removed);
  const byId = new Map();
  for (const setting of [...held.settings, ...value.settings]) {
    if (setting && typeof setting.id === "string" && !removed.has(setting.id)) byId.set(setting.id, setting);
  }
  // One pin: another tab may have pinned a setting that this one does not know.
  const pinned = value.settings.some((setting) => setting.pinned);
  const known = new Set(value.settings.map((setting) => setting.id));
  const settings = [...byId.values()].sort((a, b) => a.when - b.when);
  for (const setting of settings) if (pinned && !known.has(setting.id)) setting.pinned = false;
  save(value.models, { version: VERSION, models: value.models, settings: bounded(settings), saved: Date.now() });
}

// The newest settings, and every one that is starred or pinned.
function bounded(settings) {
  let over = settings.length - MOST;
  return settings.filter((setting) => setting.starred || setting.pinned || over-- <= 0);
}

// Where the browser has no room left, the histories of models that were not used for the longest time give way.
function save(models, history) {
  for (const key of idlest(models).slice(0, Math.max(0, idlest(models).length + 1 - MOST_MODELS))) localStorage.removeItem(key);
  for (;;) {
    try {
      localStorage.setItem(PREFIX + models, JSON.stringify(history));
      element.dataset.kept = String(history.settings.length);
      return;
    } catch (error) {
      const [oldest] = idlest(models);
      if (!oldest) {
        element.dataset.kept = "no room";
        return;
      }
      localStorage.removeItem(oldest);
    }
  }
}

function idlest(models) {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX) && key !== PREFIX + models);
  const saved = (key) => Number((stored(key.slice(PREFIX.length)) || {}).saved) || 0;
  return keys.sort((a, b) => saved(a) - saved(b));
}

function show() {
  const value = props.value ? JSON.parse(props.value) : null;
  if (!value || !value.models) return;
  try {
    // Before anything is written: what an earlier page kept for these models goes to Python once.
    if (!asked.has(value.models)) {
      asked.add(value.models);
      const held = stored(value.models);
      // Its answer is written, not this value, which does not know the names, stars and pins of before.
      if (held) return trigger('kept', { models: value.models, text: JSON.stringify(held) });
    }
    keep(value);
  } catch (error) {
    console.warn("history is not kept in this browser:", error.message); // storage may be switched off
  }
}

watch("value", show);
show();
