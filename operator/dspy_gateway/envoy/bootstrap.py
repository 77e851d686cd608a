"""The static configuration of a pod's Envoy: where the agent is, what is measured, and what may be held at most."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_contract.routes import PROBE_PORT
from dspy_contract.stat_names import PREFIX
from dspy_gateway.envoy.clusters import endpoints
from dspy_gateway.envoy.listeners import MANAGER, bare_listener, bound, router
from dspy_gateway.envoy.mirror import mirror_cluster, mirror_listener
from dspy_gateway.envoy.resource import TYPE, Resource, http_options

EVICTION_SECONDS = 60
_MONITORS = "envoy.extensions.resource_monitors"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What a pod's Envoy is told before anything else. Without a memory limit nothing is shed."""

    folder: str
    pod: str
    address: str = "::"
    probe_port: int = PROBE_PORT
    memory_limit_bytes: int | None = None


def bootstrap(about: Bootstrap) -> Resource:
    """The static configuration: the admin socket, the agent's socket from which everything else comes, and the probe.

    Envoy keeps only the statistics that are read, and drops those that nothing uses any more.
    """
    folder, pod = about.folder, about.pod
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": pod, "cluster": "dspy-gateway"},
        "admin": {"address": {"pipe": {"path": f"{folder}/admin.sock", "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "timeout": "0s",
                        "envoy_grpc": {
                            "cluster_name": "agent",
                            "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"}},
                        },
                    }
                ],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": f"{PREFIX}."},
                        {"exact": "server.uptime"},
                        {"exact": "http.gateway.downstream_rq_active"},
                        {"exact": "http.gateway.downstream_rq_total"},
                    ]
                }
            }
        },
        "stats_flush_interval": "5s",
        "stats_eviction_interval": f"{EVICTION_SECONDS}s",
        "static_resources": {
            "listeners": [_probe(about), mirror_listener(folder)],
            "clusters": [
                mirror_cluster(folder),
                {
                    "name": "agent",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": http_options({"http2_protocol_options": {}}),
                    "load_assignment": endpoints("agent", [{"pipe": {"path": f"{folder}/xds.sock"}}]),
                },
            ],
        },
        "overload_manager": _overload(about.memory_limit_bytes),
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 1_000}}]
        },
    }


def _probe(about: Bootstrap) -> Resource:
    """Readiness from Envoy itself: 503 once it has been told to fail its health check, whatever the agent does."""
    check = {
        "@type": f"{TYPE}envoy.extensions.filters.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": "/readyz"}}],
    }
    manager = {
        "@type": f"{TYPE}{MANAGER}",
        "stat_prefix": "probe",
        "route_config": {"name": "probe", "virtual_hosts": []},
        "http_filters": [{"name": "envoy.filters.http.health_check", "typed_config": check}, router()],
    }
    return bare_listener("probe", bound(about.address, about.probe_port), manager)


def _overload(memory_limit_bytes: int | None) -> Resource:
    """At 80 % of the memory the largest streams are reset, at 90 % no new requests are taken."""
    connections = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{TYPE}{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": 100_000,
        },
    }
    if memory_limit_bytes is None:
        return {"refresh_interval": "1s", "resource_monitors": [connections]}
    heap = {
        "name": "envoy.resource_monitors.fixed_heap",
        "typed_config": {
            "@type": f"{TYPE}{_MONITORS}.fixed_heap.v3.FixedHeapConfig",
            "max_heap_size_bytes": memory_limit_bytes,
        },
    }
    name = "envoy.resource_monitors.fixed_heap"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [connections, heap],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "actions": [
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [
                    {"name": name, "scaled": {"scaling_threshold": 0.8, "saturation_threshold": 0.95}},
                ],
            },
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": name, "threshold": {"value": 0.9}}],
            },
        ],
    }
