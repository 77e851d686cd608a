"""Every reason of a condition, a pause, a refusal or an event: one word each, told apart nowhere but here.

docs/operations.md lists them all; a test holds the two together.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """CamelCase, as the Kubernetes API conventions want reasons."""

    # Of the spec and what it names.
    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    INVALID_MODEL_URI = "InvalidModelUri"
    INVALID_POD = "InvalidPod"
    NAME_TAKEN = "NameTaken"
    REGISTRY_UNKNOWN = "RegistryUnknown"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    RESOLVING = "Resolving"
    ALIAS_NOT_FOUND = "AliasNotFound"
    REGISTRY_DENIED = "RegistryDenied"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_INVALID = "ModelInvalid"
    ARTIFACTS_NOT_SERVED = "ArtifactsNotServed"
    PYTHON_MISMATCH = "PythonMismatch"
    DSPY_MISMATCH = "DSPyMismatch"
    DEPENDENCY_MISSING = "DependencyMissing"
    UNREADABLE = "Unreadable"
    LEDGER_TOO_NEW = "LedgerTooNew"
    LEDGER_LOST = "LedgerLost"
    CONFLICT = "Conflict"
    PROGRAM_NOT_FOUND = "ProgramNotFound"

    # Of what serves.
    SERVING = "Serving"
    GATEWAY_NOT_READY = "GatewayNotReady"
    GATEWAY_REFUSED = "GatewayRefused"
    GATEWAY_TOO_OLD = "GatewayTooOld"
    NO_PORT = "NoPort"
    CURRENT = "Current"
    UNDONE = "Undone"
    WAITING = "Waiting"
    RELEASE_IN_PROGRESS = "ReleaseInProgress"
    AS_LOGGED = "AsLogged"
    SETTINGS_DROPPED = "SettingsDropped"
    TYPES_UNKNOWN = "TypesUnknown"
    EVENT_LOOP_BLOCKED = "EventLoopBlocked"
    PROGRESSING = "Progressing"
    SETTLED = "Settled"

    # Of pods.
    CREATING = "Creating"
    NOT_READY = "NotReady"
    UNSCHEDULABLE = "Unschedulable"
    SECRET_NOT_FOUND = "SecretNotFound"
    MOUNT_FAILED = "MountFailed"
    IMAGE_NOT_PULLED = "ImageNotPulled"
    CONFIGURATION_MISSING = "ConfigurationMissing"
    CRASHING = "Crashing"
    PODS_REFUSED = "PodsRefused"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    MODEL_CHANGED = "ModelChanged"
    LM_CONFIGURATION_INVALID = "LMConfigurationInvalid"
    SCHEMA_INVALID = "SchemaInvalid"
    START_FAILED = "StartFailed"

    # Why a release waits.
    POLICY_MISSING = "PolicyMissing"
    PAUSED_BY_USER = "PausedByUser"
    AWAITING_APPROVAL = "AwaitingApproval"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    STEP_DEADLINE_EXCEEDED = "StepDeadlineExceeded"
    STABLE_NOT_READY = "StableNotReady"
    STABLE_UNHEALTHY = "StableUnhealthy"
    STABLE_SUFFERS = "StableSuffers"
    STABLE_STAYS_SICK = "StableStaysSick"
    COUNTS_MISSING = "CountsMissing"
    UNREACHABLE = "Unreachable"
    ABOVE_CEILING = "AboveCeiling"
    OVERLOADED = "Overloaded"
    NOT_CONFIRMED = "NotConfirmed"
    SPEC_UNRESOLVED = "SpecUnresolved"

    # Why a candidate goes back.
    FAILS_MORE_OFTEN = "FailsMoreOften"
    REFUSES_MORE_REQUESTS = "RefusesMoreRequests"
    CLIENTS_LEAVE = "ClientsLeave"
    SLOWER = "Slower"
    FLAGGED_MORE_OFTEN = "FlaggedMoreOften"
    CRASHES = "Crashes"
    SMOKE_TEST_FAILED = "SmokeTestFailed"

    # How a release ends.
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    REFUSED = "Refused"
    ABORTED = "Aborted"
    CANCELLED = "Cancelled"

    # Events.
    FIRST_REVISION = "FirstRevision"
    FIRST_SERVING = "FirstServing"
    RELEASE_STARTED = "ReleaseStarted"
    RELEASE_CANCELLED = "ReleaseCancelled"
    RELEASE_PAUSED = "ReleasePaused"
    RELEASE_RESUMED = "ReleaseResumed"
    CANDIDATE_READY = "CandidateReady"
    SMOKE_TEST_PASSED = "SmokeTestPassed"
    CANDIDATE_LOWERED = "CandidateLowered"
    LOWERED_TOO_LATE = "LoweredTooLate"
    WEIGHT_SET = "WeightSet"
    DRAIN_TIMEOUT = "DrainTimeout"
    WRITTEN_BACK = "WrittenBack"
    WRITE_BACK_FAILED = "WriteBackFailed"
    RECEIVER_UNKNOWN = "ReceiverUnknown"
    REPAIRED = "Repaired"
    REQUEST_DONE = "RequestDone"
    UNDO_ENDED = "UndoEnded"
    REQUEST_IGNORED = "RequestIgnored"
    REQUEST_UNKNOWN = "RequestUnknown"
