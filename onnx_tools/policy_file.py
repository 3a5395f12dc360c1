"""A policy as a TOML file.

::

    sparsity = 0.8                # of what no rule decides; the command's options have the last word
    allocation = "global:lamp"

    [[rule]]                      # the first rule that matches decides
    match = ["head.*", "op:Gemm"]
    prune = false

    [[rule]]
    match = "op:Conv"
    sparsity = 0.5
    granularity = "row"

Metrics that look at data (wanda, sparsegpt) stand in no policy, which names no data; as options beside the file they go
for all its weights, with the sparsities and N:M of its rules.
"""

from __future__ import annotations

import glob
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from onnx_tools.errors import InvalidPolicy
from onnx_tools.policy import Policy, Rule
from oxiprune_gpu import PruningError

_MOST_BYTES = 1 << 20
_NUMBER, _TEXT, _WHOLE = "a number of usual size", "a text", "a whole number of usual size"
_FLAG, _PATTERNS, _TABLES = "true or false", "a text or a list", "tables, each begun by [[rule]]"
_MOST = 1 << 62
"""Larger numbers, which TOML may hold, mean nothing here and do not fit a float."""

_SETTINGS = {"sparsity": _NUMBER, "metric": _TEXT, "granularity": _TEXT, "min_nonzero": _WHOLE}
_POLICY_KEYS = {
    **_SETTINGS,
    "allocation": _TEXT,
    "floor": _NUMBER,
    "ceiling": _NUMBER,
    "target": _TEXT,
    "rule": _TABLES,
}
_RULE_KEYS = {"match": _PATTERNS, "prune": _FLAG, **_SETTINGS}

OF_DATA = ("wanda", "sparsegpt")
"""Metrics that no policy has; those of `onnx_tools.calibration.methods.METHODS`."""

_FITS: dict[str, Callable[[Any], bool]] = {
    _NUMBER: lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST,
    _TEXT: lambda value: isinstance(value, str),
    _WHOLE: lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST,
    _FLAG: lambda value: isinstance(value, bool),
    _PATTERNS: lambda value: isinstance(value, str | list),
    _TABLES: lambda value: isinstance(value, list) and all(isinstance(table, dict) for table in value),
}


def read_policy(path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Policy:
    """Read a policy; `options` (fields of `Policy`) have the last word over what the file says outside its rules.

    Raises:
        InvalidPolicy: the file can't be read or is no TOML, has an unknown key, or a value that does not fit, or the
            options do not; the text names the file, the rule and the key.
    """
    where = os.fspath(path)
    content = _content(where)
    _check_keys(content, _POLICY_KEYS, where)
    rules = content.pop("rule", [])
    made = tuple(_rule(rule, f"{where}: rule {number}") for number, rule in enumerate(rules, 1))
    given = {key: value for key, value in (options or {}).items() if value is not None}
    source = f"{where} with the options given" if given else where
    policy: Policy = _made(Policy, {**content, **given, "rules": made}, source)
    _checked(policy, source)
    return policy


def policy_text(policy: Policy) -> str:
    """The policy as TOML, of which `read_policy` makes the same policy; not for metrics that hold arrays."""
    settings = {
        "sparsity": policy.sparsity,
        "metric": policy.metric.text,
        "granularity": policy.granularity.text,
        "min_nonzero": policy.min_nonzero,
        "allocation": policy.allocation.text,
        "floor": policy.floor,
        "ceiling": policy.ceiling,
        "target": policy.target,
    }
    tables = [_assignments(settings if policy.deals else {key: settings[key] for key in _SETTINGS})]
    tables += ["[[rule]]\n" + _assignments(_settings_of(rule)) for rule in policy.rules]
    return "\n".join(tables)


def pattern_of(name: str) -> str:
    """A pattern for `match` that means the weight of this name, whatever characters are in it."""
    pattern = glob.escape(name)
    pattern = f"[o]{pattern[1:]}" if pattern.startswith("op:") else pattern
    return pattern.encode(errors="replace").decode()  # what UTF-8 has no form for becomes "?", any character


def _settings_of(rule: Rule) -> dict[str, Any]:
    return {
        "match": rule.match,
        "prune": None if rule.prune else False,
        "sparsity": rule.sparsity,
        "metric": rule.metric and rule.metric.text,
        "granularity": rule.granularity and rule.granularity.text,
        "min_nonzero": rule.min_nonzero,
    }


def _assignments(settings: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in settings.items() if value is not None)


def _toml(value: Any) -> str:
    """A number, flag, text or list of texts. TOML's texts are JSON's, but for the character 127."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _content(where: str) -> dict[str, Any]:
    try:
        with open(where, "rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidPolicy(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(text) > _MOST_BYTES:
        raise InvalidPolicy(f"{where}: longer than {_MOST_BYTES:,} bytes: no policy")
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidPolicy(f"{where}: no TOML: {error}") from None


def _rule(content: dict[str, Any], where: str) -> Rule:
    _check_keys(content, _RULE_KEYS, where)
    if "match" not in content:
        raise InvalidPolicy(f"{where} has no 'match': name the weights it is for, as in match = \"op:Conv\"")
    rule: Rule = _made(Rule, content, where)
    if not rule.prune and len(content) > 2:
        settings = ", ".join(key for key in content if key in _SETTINGS)
        raise InvalidPolicy(f"{where} leaves its weights alone (prune = false); leave out {settings}")
    return rule


def _check_keys(content: Mapping[str, Any], keys: Mapping[str, str], where: str) -> None:
    for key, value in content.items():
        if key not in keys:
            raise InvalidPolicy(f"{where}: unknown key '{key}'{_meant(key, keys)}; there are {', '.join(keys)}")
        if not _FITS[keys[key]](value):
            raise InvalidPolicy(f"{where}: {key} = {value!r} must be {keys[key]}")
    _refuse_data(content, where)


def _refuse_data(content: Mapping[str, Any], where: str) -> None:
    metric = content.get("metric")
    if metric in OF_DATA:
        raise InvalidPolicy(
            f"{where}: metric '{metric}' looks at data, which a policy does not name: leave it out here, and give "
            f"--metric {metric} --calibration DATA beside the policy; it goes for all weights then"
        )


def _meant(key: str, keys: Mapping[str, str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, keys, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _checked(policy: Policy, where: str) -> None:
    try:
        policy.check()
    except PruningError as error:
        raise InvalidPolicy(f"{where}: {error}") from None


def _made(kind: Callable[..., Any], content: Mapping[str, Any], where: str) -> Any:
    try:
        return kind(**content)
    except PruningError as error:
        raise InvalidPolicy(f"{where}: {error}") from None
