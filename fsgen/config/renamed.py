"""Keys and router rules of params.yaml that were renamed in 0.2.0; their old names are refused."""

from fsgen.errors import UserError

SECTIONS = {
    "curriculum": "embedded_curriculum",
    "family": "embedded_models",
    "tuned": "embedded_finetunes",
}
KEYS = {  # by section; of an entry, or of the section itself where it has no entries
    "datasets": {"calibration": "calibration_share"},
    "models": {"family": "embedded", "parameters": "parameter_count", "prompt": "prompt_format"},
    "routers": {"at": "threshold"},
    "dump": {
        "block": "prompts_per_shard",
        "depth": "nats_below_top",
        "k_max": "max_top_k",
        "k_min": "min_top_k",
        "tail": "tokens_after_stop",
    },
    "compute": {"engine": "executor", "read_tokens": "max_batch_tokens", "rows": "batch_size"},
    "report": {"prompts": "explorer_prompts"},
}
ROUTER_RULES = {"threshold": "max_probability"}


def refuse_section(name: object) -> None:
    """UserError where a section of params.yaml has its old name."""
    _refuse(SECTIONS, name, str(name))


def refuse_key(where: str, key: object) -> None:
    """UserError where `where`, such as `datasets.gsm8k` or `dump`, holds a key by its old name."""
    _refuse(KEYS.get(where.partition(".")[0], {}), key, f"{where}.{key}")


def refuse_router_rule(where: str, rule: object) -> None:
    """UserError where a router, such as `routers.mine`, names a rule by its old name."""
    _refuse(ROUTER_RULES, rule, f"{where} with the rule {rule}")


def _refuse(renamed: dict[str, str], name: object, what: str) -> None:
    if name in renamed:
        raise UserError(
            f"{what} is called '{renamed[name]}' since 0.2.0; run 'fsgen migrate' to rewrite params.yaml."
        )
