"""The part of KubeRay's `RayCluster` (ray.io/v1) that our example uses, as JSON Schema."""

from __future__ import annotations

from typing import Any

_POD: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "additionalProperties": False,
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "shareProcessNamespace": {"type": "boolean"},
                "terminationGracePeriodSeconds": {"type": "integer"},
                "securityContext": {
                    "type": "object",
                    "additionalProperties": {"type": "integer"},
                    "propertyNames": {"enum": ["runAsUser", "runAsGroup", "fsGroup"]},
                },
                "initContainers": {"type": "array", "items": {"$ref": "#/$defs/container"}},
                "containers": {"type": "array", "items": {"$ref": "#/$defs/container"}},
                "volumes": {
                    "type": "array",
                    "items": {"type": "object", "required": ["name"], "minProperties": 2, "maxProperties": 2},
                },
            },
        }
    },
}
_PROBE: dict[str, Any] = {
    "type": "object",
    "required": ["httpGet"],
    "additionalProperties": {"type": "integer"},
    "properties": {
        "httpGet": {
            "type": "object",
            "required": ["path", "port"],
            "additionalProperties": False,
            "properties": {"path": {"enum": ["/healthz", "/readyz"]}, "port": {"type": "integer"}},
        }
    },
}
_GROUP: dict[str, Any] = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": _POD,
}
RAY_CLUSTER: dict[str, Any] = {
    "$defs": {
        "container": {
            "type": "object",
            "required": ["name", "image"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z][-a-z0-9]*$"},
                "image": {"type": "string"},
                "command": {"type": "array", "items": {"type": "string"}},
                "args": {"type": "array", "items": {"type": "string"}},
                "ports": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["containerPort"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string", "maxLength": 15},
                            "containerPort": {"type": "integer"},
                        },
                    },
                },
                "env": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "additionalProperties": False,
                        "properties": {"name": {}, "value": {"type": "string"}, "valueFrom": {"type": "object"}},
                    },
                },
                "envFrom": {"type": "array"},
                "readinessProbe": _PROBE,
                "livenessProbe": _PROBE,
                "resources": {
                    "type": "object",
                    "propertyNames": {"enum": ["requests", "limits"]},
                    "additionalProperties": {
                        "type": "object",
                        "propertyNames": {"enum": ["cpu", "memory", "nvidia.com/gpu"]},
                        "additionalProperties": {"type": "string", "pattern": "^[0-9]+(m|Mi|Gi)?$"},
                    },
                },
                "volumeMounts": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "mountPath"],
                        "additionalProperties": False,
                        "properties": {"name": {}, "mountPath": {"pattern": "^/"}, "readOnly": {"type": "boolean"}},
                    },
                },
            },
        }
    },
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["headGroupSpec"],
            "additionalProperties": False,
            "properties": {
                "rayVersion": {"type": "string"},
                "authOptions": {"const": {"mode": "token"}},
                "enableInTreeAutoscaling": {"type": "boolean"},
                "autoscalerOptions": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"idleTimeoutSeconds": {"type": "integer"}},
                },
                "headGroupSpec": {
                    "type": "object",
                    "required": ["rayStartParams", "template"],
                    "additionalProperties": False,
                    "properties": _GROUP,
                },
                "workerGroupSpecs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["groupName", "rayStartParams", "template"],
                        "additionalProperties": False,
                        "properties": {
                            "groupName": {"type": "string"},
                            "replicas": {"type": "integer"},
                            "minReplicas": {"type": "integer"},
                            "maxReplicas": {"type": "integer"},
                            **_GROUP,
                        },
                    },
                },
            },
        },
    },
}
