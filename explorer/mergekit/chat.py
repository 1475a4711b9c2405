"""Chat templates: a known name, the one that most models have, or the Jinja text itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_LOOP = "{% for message in messages %}"
_END = "{% endfor %}"
_TEXT = "{{ message['content'] }}"
NAMED = {
    "chatml": (
        _LOOP
        + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        + _END
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        + _LOOP
        + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        + "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
        + _END
        + "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}"
        + _LOOP
        + "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        + "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
        + _END
    ),
    "alpaca": (
        _LOOP
        + "{% if message['role'] == 'user' %}{{ '### Instruction:\\n' }}"
        + "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' }}{% endif %}"
        + _TEXT
        + "{{ '\\n\\n' }}"
        + _END
        + "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "exaone": (
        _LOOP
        + "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        + "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}"
        + _END
        + "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
}


def template_text(wanted: str, folders: Iterable[Path]) -> str | None:
    """The template as text; for "auto" the one that most of the folders have (the first of equally many), or None."""
    if wanted != "auto":
        return NAMED.get(wanted, wanted)
    counts = Counter(t for t in map(template_in, folders) if t)
    return counts.most_common(1)[0][0] if counts else None


def template_in(folder: Path) -> str | None:
    """The template of a model folder: its own file, or the entry of its tokenizer's configuration."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pass
    try:
        held = json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(held, list):
        held = next((h.get("template") for h in held if isinstance(h, dict) and h.get("name") == "default"), None)
    return held.strip() if isinstance(held, str) else None


def with_template(tokenizer_config: bytes, template: str) -> str:
    """The tokenizer's configuration with this template, as text. Raises ValueError where it is no JSON mapping."""
    plain = json.loads(tokenizer_config)
    if not isinstance(plain, dict):
        raise ValueError("no mapping")
    return json.dumps({**plain, "chat_template": template}, indent=2, ensure_ascii=False) + "\n"
