"""mamlpp: the core of a teaching kit that builds MAML up to MAML++ step by step.

The map. Each line may import the lines above it:

    errors, input_checks, precision                what a user gets wrong; full float32
    schedules, recipe, inner_rates, network, maml  the algorithm: read maml.py first
    recipes, task_result, learner, diagnostics     recipes by name, a learner, its gradient
    ------------------------------------------------ above this line: the definition, torch only
    data/       image sets and tasks
    engine/     the same numbers sooner; it follows an edit of the definition
    run/        training, evaluation, folders, sweeps: the only user of the engine
    show/       plots, explorers, the live panel
    checks/     what the exercises call
    public      the names that a user imports: `from mamlpp import Trainer`
    cli         the command line
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamlpp.files import settle_folders

if TYPE_CHECKING:
    from mamlpp.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Import a name when it is first asked for.

        So the command hears Ctrl-C before it imports torch, which takes more than a second.
        """
        here = Path(__file__).parent
        if (here / f"{name}.py").exists() or (here / name / "__init__.py").exists():
            return import_module(f"mamlpp.{name}")
        if name == "__version__":
            return import_module("mamlpp.files").version()
        public = import_module("mamlpp.public")
        if name != "__all__" and name not in public.__all__:
            raise AttributeError(f"module 'mamlpp' has no attribute {name!r}")
        return getattr(public, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("mamlpp.public").__all__})


settle_folders()
