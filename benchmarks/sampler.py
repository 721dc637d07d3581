"""Tasks per second that the sampler draws on one core: `python -m benchmarks.sampler`."""

import time

import torch

import mamlpp

TASKS, SECONDS = 16, 2.0


def tasks_per_second(sampler: mamlpp.TaskSampler) -> float:
    """Tasks drawn per second, in meta-batches of `TASKS`."""
    sampler.sample(TASKS)
    start, drawn = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        sampler.sample(TASKS)
        drawn += TASKS
    return drawn / (time.perf_counter() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    images = mamlpp.load_images(mamlpp.default_dataset(), "train")
    for ways, shots in ((5, 1), (20, 1), (20, 5)):
        rate = tasks_per_second(mamlpp.TaskSampler(images, ways, shots, rotate=True))
        print(f"{images.name}, {ways:>2}-way {shots}-shot: {rate:,.0f} tasks per second")
