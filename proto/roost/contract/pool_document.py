"""What gateways need of a pool, as its operator publishes it (docs/contracts.md). Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from roost.contract.budgets import DEFAULT_WINDOW_SECONDS, BudgetLimits, RoleBudgets
from roost.contract.budgets_document import (
    limits_from_json,
    limits_to_json,
    repetition_from_json,
    repetition_to_json,
    role_budgets_from_json,
    role_budgets_to_json,
)
from roost.contract.document_fields import field_value
from roost.contract.nonce_lines import NonceLine
from roost.contract.repetition import RepetitionRules

SCHEMA_VERSION = 1
"""Version of the documents that are written. A reader takes this one and older ones; a field that an older reader may
pass over needs no new version."""

DEFAULT_QUEUE_TIMEOUT_SECONDS = 60.0
DEFAULT_IMPLICIT_TTL_SECONDS = 3600.0
DEFAULT_MAX_HOLD_SECONDS = 120.0
DEFAULT_WEIGHT = 1
_MIGRATE, _REFUSE = "Migrate", "Refuse"
_KEEP, _DROP = "keep", "drop"
_ENFORCED, _OFF = "Enforced", "Off"
_ADMIT = "Admit"
_NEVER, _HELD = "Never", "Held"
_PROMPT_LOOKUP = "PromptLookup"


@dataclass(frozen=True, slots=True)
class PoolRole:
    """A session's part. Limits of 0 mean no limit."""

    name: str
    priority: int = 0
    max_output_tokens: int = 0
    """Of one step."""
    max_steps: int = 0
    """Of one session, as is the budget."""
    budget_tokens: int = 0
    """Prompt and output tokens, whatever was cached."""
    budgets: RoleBudgets = RoleBudgets()  # noqa: RUF009  # frozen
    repetition: RepetitionRules = RepetitionRules()  # noqa: RUF009  # frozen
    refuses_held: bool = False
    """Whether a step that was held for as long as it may be is refused; otherwise it is admitted."""
    prompt_lookup: bool = False
    """Whether workers may guess output from a session's own context."""


@dataclass(frozen=True, slots=True)
class PoolTenant:
    """What a pool says of a tenant of its gateways' keys."""

    name: str
    weight: int = DEFAULT_WEIGHT
    """Its share of what waiting steps get, beside those of other tenants; at least 1."""


@dataclass(frozen=True, slots=True)
class PoolDocument:
    """A pool. Limits of 0 mean no limit."""

    pool: str
    model: str = ""
    aliases: tuple[str, ...] = ()
    """Further names of the model."""
    context_tokens: int = 0
    drops_thinking: bool = False
    """Whether the thinking of earlier turns leaves a session's log when a user's message begins another turn."""
    active_revision: str = ""
    """Empty: any worker's revision will do."""
    roles: tuple[PoolRole, ...] = ()
    """The first is the default."""
    idle_ttl_seconds: float = 0.0
    implicit_ttl_seconds: float = DEFAULT_IMPLICIT_TTL_SECONDS
    """Idle time after which a session that no client opened, but a gateway for a conversation, is erased."""
    nonce_lines: tuple[NonceLine, ...] = ()
    """Lines of system text that are neither compared nor rendered, beside those that gateways know."""
    max_session_tokens: int = 0
    migrates: bool = True
    """Whether sessions of another revision move to the active one; otherwise their steps are refused."""
    tenant_budget: BudgetLimits = BudgetLimits(window_seconds=DEFAULT_WINDOW_SECONDS)  # noqa: RUF009  # frozen
    """Of each tenant, in a window of time."""
    tenants: tuple[PoolTenant, ...] = ()
    """Those with a weight of their own."""
    queue_limit: int = 0
    queue_timeout_seconds: float = DEFAULT_QUEUE_TIMEOUT_SECONDS
    has_gate: bool = False
    """Whether sessions are admitted by the working set of the pool."""
    max_hold_seconds: float = DEFAULT_MAX_HOLD_SECONDS
    """Longest time for which the gate holds a step."""
    rebuilds_ahead: bool = False
    """Whether idle workers rebuild sessions on hold before these are expected back."""
    suspend: bool = False
    schema_version: int = SCHEMA_VERSION
    """Version that was read; 0 when the document was written before there were versions."""

    @property
    def idle_ttl_ms(self) -> int:
        return int(self.idle_ttl_seconds * 1000)

    @property
    def implicit_ttl_ms(self) -> int:
        """Of a conversation's session: at most that of others."""
        seconds = [limit for limit in (self.implicit_ttl_seconds, self.idle_ttl_seconds) if limit]
        return int(min(seconds, default=DEFAULT_IMPLICIT_TTL_SECONDS) * 1000)

    @property
    def token_limit(self) -> int:
        """The longest log of a session: the smaller of the model's context and the pool's limit."""
        limits = [limit for limit in (self.context_tokens, self.max_session_tokens) if limit]
        return min(limits) if limits else 0

    @property
    def priorities(self) -> list[int]:
        return [role.priority for role in self.roles]

    def role(self, name: str) -> PoolRole:
        """Return the role, or one without limits when the pool no longer has it."""
        return next((role for role in self.roles if role.name == name), PoolRole(name))

    def weight(self, tenant: str) -> int:
        """Of a tenant, whether the pool names it or not."""
        return next((named.weight for named in self.tenants if named.name == tenant), DEFAULT_WEIGHT)

    def encode(self) -> str:
        return json.dumps(self.to_json(), separators=(",", ":"))

    def to_json(self) -> dict[str, Any]:
        """The document in the spec's own words, always of `SCHEMA_VERSION`."""
        return {
            "schemaVersion": SCHEMA_VERSION,
            "pool": self.pool,
            "model": {
                "name": self.model,
                "aliases": list(self.aliases),
                "contextTokens": self.context_tokens,
                "thinking": _DROP if self.drops_thinking else _KEEP,
                "kvCache": {"rebuildAhead": _HELD if self.rebuilds_ahead else _NEVER},
            },
            "activeRevision": self.active_revision,
            "roles": [_role_to_json(role) for role in self.roles],
            "sessions": {
                "idleTTLSeconds": self.idle_ttl_seconds,
                "implicitTTLSeconds": self.implicit_ttl_seconds,
                "maxTokens": self.max_session_tokens,
                "nonceLines": list(map(str, self.nonce_lines)),
                "onModelChange": _MIGRATE if self.migrates else _REFUSE,
            },
            "tenantBudget": limits_to_json(self.tenant_budget),
            "tenants": [{"name": tenant.name, "weight": tenant.weight} for tenant in self.tenants],
            "admission": {
                "queueLimit": self.queue_limit,
                "queueTimeoutSeconds": self.queue_timeout_seconds,
                "workingSet": _ENFORCED if self.has_gate else _OFF,
                "maxHoldSeconds": self.max_hold_seconds,
            },
            "suspend": self.suspend,
        }

    @classmethod
    def decode(cls, pool: str, text: str | bytes) -> Self:
        """The document of `pool` from its text. Raises ValueError as `from_json` does."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise _unreadable(pool, f"it is not JSON: {error}") from error
        return cls.from_json(pool, document)

    @classmethod
    def from_json(cls, pool: str, document: object) -> Self:
        """The document of `pool`. Missing fields get their defaults, unknown ones are passed over.

        Raises ValueError that names the field for one of another type, and for a newer schema version.
        """
        try:
            return cls._read(pool, document)
        except ValueError as error:
            raise _unreadable(pool, str(error)) from error

    @classmethod
    def _read(cls, pool: str, document: object) -> Self:
        if not isinstance(document, dict):
            raise ValueError(f"a map is wanted, not {document!r:.80}")
        version = field_value(document, "", "schemaVersion", 0)
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"schemaVersion {version} is newer than {SCHEMA_VERSION}, the newest that this program reads; "
                "update it to the version of the operator that wrote the document"
            )
        model, sessions = _part(document, "model"), _part(document, "sessions")
        kv_cache = field_value(model, "model.", "kvCache", dict[str, Any]())
        admission, roles = _part(document, "admission"), field_value(document, "", "roles", list[Any]())
        tenants = field_value(document, "", "tenants", list[Any]())
        timeout = field_value(admission, "admission.", "queueTimeoutSeconds", 0.0)
        lines, where = field_value(sessions, "sessions.", "nonceLines", list[Any]()), "sessions.nonceLines"
        return cls(
            pool=pool,
            model=field_value(model, "model.", "name", ""),
            aliases=_texts(field_value(model, "model.", "aliases", list[Any]()), "model.aliases"),
            context_tokens=field_value(model, "model.", "contextTokens", 0),
            drops_thinking=field_value(model, "model.", "thinking", _KEEP) == _DROP,
            active_revision=field_value(document, "", "activeRevision", ""),
            roles=tuple(_role_from_json(role, f"roles[{number}].") for number, role in enumerate(roles)),
            idle_ttl_seconds=field_value(sessions, "sessions.", "idleTTLSeconds", 0.0),
            implicit_ttl_seconds=field_value(sessions, "sessions.", "implicitTTLSeconds", 0.0)
            or DEFAULT_IMPLICIT_TTL_SECONDS,
            nonce_lines=tuple(
                _nonce_line(text, f"{where}[{number}]") for number, text in enumerate(_texts(lines, where))
            ),
            max_session_tokens=field_value(sessions, "sessions.", "maxTokens", 0),
            migrates=field_value(sessions, "sessions.", "onModelChange", _MIGRATE) != _REFUSE,
            tenant_budget=limits_from_json(_part(document, "tenantBudget"), "tenantBudget.", in_windows=True),
            tenants=tuple(_tenant_from_json(tenant, f"tenants[{number}].") for number, tenant in enumerate(tenants)),
            queue_limit=field_value(admission, "admission.", "queueLimit", 0),
            queue_timeout_seconds=timeout or DEFAULT_QUEUE_TIMEOUT_SECONDS,
            has_gate=field_value(admission, "admission.", "workingSet", _OFF) == _ENFORCED,
            max_hold_seconds=field_value(admission, "admission.", "maxHoldSeconds", 0.0) or DEFAULT_MAX_HOLD_SECONDS,
            rebuilds_ahead=field_value(kv_cache, "model.kvCache.", "rebuildAhead", _NEVER) == _HELD,
            suspend=field_value(document, "", "suspend", False),
            schema_version=version,
        )


def _role_to_json(role: PoolRole) -> dict[str, Any]:
    return {
        "name": role.name,
        "priority": role.priority,
        "maxOutputTokensPerStep": role.max_output_tokens,
        "maxStepsPerSession": role.max_steps,
        "sessionTokenBudget": role.budget_tokens,
        "budgets": role_budgets_to_json(role.budgets),
        "repetition": repetition_to_json(role.repetition),
        "onHold": _REFUSE if role.refuses_held else _ADMIT,
        "speculation": _PROMPT_LOOKUP if role.prompt_lookup else _NEVER,
    }


def _role_from_json(role: object, where: str) -> PoolRole:
    if not isinstance(role, dict) or not role.get("name"):
        raise ValueError(f"{where}name is missing")
    budgets, repetition = (field_value(role, where, part, dict[str, Any]()) for part in ("budgets", "repetition"))
    return PoolRole(
        name=field_value(role, where, "name", ""),
        priority=field_value(role, where, "priority", 0),
        max_output_tokens=field_value(role, where, "maxOutputTokensPerStep", 0),
        max_steps=field_value(role, where, "maxStepsPerSession", 0),
        budget_tokens=field_value(role, where, "sessionTokenBudget", 0),
        budgets=role_budgets_from_json(budgets, f"{where}budgets."),
        repetition=repetition_from_json(repetition, f"{where}repetition."),
        refuses_held=field_value(role, where, "onHold", _ADMIT) == _REFUSE,
        prompt_lookup=field_value(role, where, "speculation", _NEVER) == _PROMPT_LOOKUP,
    )


def _tenant_from_json(tenant: object, where: str) -> PoolTenant:
    if not isinstance(tenant, dict) or not tenant.get("name"):
        raise ValueError(f"{where}name is missing")
    weight = field_value(tenant, where, "weight", DEFAULT_WEIGHT)
    if weight < 1:
        raise ValueError(f"{where}weight must be at least 1, not {weight}")
    return PoolTenant(field_value(tenant, where, "name", ""), weight)


def _part(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return field_value(document, "", key, dict[str, Any]())


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{where}[{number}] must be a text, not {value!r:.80}")
    return tuple(values)


def _nonce_line(text: str, where: str) -> NonceLine:
    try:
        return NonceLine.parse(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _unreadable(pool: str, why: str) -> ValueError:
    return ValueError(f"pool {pool}: its document in the store cannot be read: {why}")
