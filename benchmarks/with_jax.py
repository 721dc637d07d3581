"""Plain MAML in JAX: `vmap` over the tasks of a meta-batch, `jit` of the whole meta-step."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.race import Step
from benchmarks.workloads import Workload
from mamlpp.network import BLOCKS

Weights = dict[str, Any]
BETAS, EPS = (0.9, 0.999), 1e-8  # PyTorch's defaults for Adam


def with_jax(workload: Workload) -> Step:
    """Second-order MAML with Adam. The first call of the step compiles it."""
    recipe, sampler = workload.recipe, workload.sampler()
    weights = make_weights(workload)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = weights, zeros, zeros, 0

    def task_loss(weights: Weights, sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        for _ in range(recipe.inner_steps):
            gradient = jax.grad(cross_entropy)(weights, sx, sy)
            weights = jax.tree.map(lambda w, g: w - recipe.inner_rate * g, weights, gradient)
        return cross_entropy(weights, qx, qy)

    def meta_loss(weights: Weights, *batch: Any) -> Any:
        return jax.vmap(task_loss, (None, 0, 0, 0, 0))(weights, *batch).mean()

    @jax.jit
    def update(state: Any, *batch: Any) -> Any:
        return adam(state, jax.grad(meta_loss)(state[0], *batch), recipe.outer_rate or 0.0)

    def meta_step() -> None:
        nonlocal state
        tasks = sampler.sample(recipe.meta_batch)
        parts = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
        state = jax.block_until_ready(update(state, *(jnp.asarray(x.numpy()) for x in parts)))

    return meta_step


def make_weights(workload: Workload) -> Weights:
    """Weights of the four-block network by name, initialised Xavier-uniform."""
    channels, height, width = workload.image_shape
    filters = workload.recipe.filters
    cells = (height >> BLOCKS) * (width >> BLOCKS)
    draw = jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0)
    keys = jax.random.split(jax.random.key(0), BLOCKS + 1)
    weights: Weights = {}
    for block in range(BLOCKS):
        before = filters if block else channels
        weights[f"conv{block}"] = draw(keys[block], (filters, before, 3, 3))
        weights[f"scale{block}"], weights[f"shift{block}"] = jnp.ones(filters), jnp.zeros(filters)
    weights["head"] = draw(keys[-1], (workload.ways, filters * cells))
    return weights | {"bias": jnp.zeros(workload.ways)}


def cross_entropy(weights: Weights, x: Any, y: Any) -> Any:
    """Mean loss of the network on images `[M, C, H, W]` with labels `[M]`."""
    for block in range(BLOCKS):
        x = jax.lax.conv_general_dilated(x, weights[f"conv{block}"], (1, 1), "SAME")
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        scale, shift = (weights[f"{part}{block}"][:, None, None] for part in ("scale", "shift"))
        x = jax.nn.relu((x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift)
        halves = (1, 1, 2, 2)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, halves, halves, "VALID")
    logits = x.reshape(len(x), -1) @ weights["head"].T + weights["bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def adam(state: Any, gradient: Weights, rate: float) -> Any:
    """One step of Adam on (weights, first moments, second moments, number of steps)."""
    weights, first, second, count = state
    count = count + 1
    first = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, first, gradient)
    second = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * g * g, second, gradient)

    def move(w: Any, m: Any, v: Any) -> Any:
        root = jnp.sqrt(v / (1 - BETAS[1] ** count)) + EPS
        return w - rate * m / (1 - BETAS[0] ** count) / root

    return jax.tree.map(move, weights, first, second), first, second, count
