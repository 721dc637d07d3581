"""What each Python that the tests start runs first: it begins to compute two seconds sooner.

While modules are imported nearly every object stays, and the garbage collector looks for others in
vain: it looks less often. And the first optimizer imports PyTorch's compiler, only to be told not
to compile: here it does so where anything else is asked of the compiler.
"""

import gc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

COMPILER = "torch._dynamo"


class Compiler(ModuleType):
    """The compiler before anything is compiled: what it does to leave code alone, and no more."""

    @staticmethod
    def disable(function=None, recursive=True, **_):
        return function or (lambda function: function)

    @staticmethod
    def graph_break(*_, **__):
        pass

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(real(), name)


class Finder:
    """Finds the stand-in; where a part of the compiler is imported, the real one and its part."""

    active = True

    def find_spec(self, name, path=None, target=None):
        if not self.active or not f"{name}.".startswith(f"{COMPILER}."):
            return None
        if name != COMPILER:
            real()
            if name not in sys.modules:
                return importlib.util.find_spec(name)
        return ModuleSpec(name, self, is_package=name == COMPILER)

    def create_module(self, spec):
        return sys.modules.get(spec.name) or Compiler(spec.name)

    def exec_module(self, module):
        pass


def real():
    if finder.active:
        finder.active = False
        sys.modules.pop(COMPILER, None)
    return importlib.import_module(COMPILER)


gc.set_threshold(20_000, 20, 20)
finder = Finder()
sys.meta_path.insert(0, finder)
