"""The engine: the numbers of the definition, sooner. It imports the definition, never the reverse.

Training and evaluation use it through `Engine.meta_gradient` and `Engine.logits`, and nothing else
imports it. Where it does not compute what the definition computes, the definition itself is used;
`definition_result` tells whether two processes have the same definition.
"""

from mamlpp.engine.agreement import definition_result, same
from mamlpp.engine.engine import Engine
from mamlpp.engine.threads import keep_priority, one_thread
from mamlpp.engine.workers import Workers, torchrun_workers

__all__ = [
    "Engine",
    "Workers",
    "definition_result",
    "keep_priority",
    "one_thread",
    "same",
    "torchrun_workers",
]
