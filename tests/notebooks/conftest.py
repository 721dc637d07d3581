"""The kernels of these tests are forks of one process that has imported what all of them need.

A kernel of its own would import PyTorch and matplotlib again for each notebook: seconds of work.
"""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from jupyter_client.provisioning import local_provisioner

IMPORTED = ["torch", "torch._dynamo", "matplotlib.pyplot", "ipywidgets", "ipykernel.kernelapp"]


@pytest.fixture(scope="session", autouse=True)
def forked_kernels():
    """Fork kernels, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        yield
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, __name__])

    def launch_kernel(command, env, cwd=None, **_):
        words = command[command.index("-f") :], env, str(cwd or Path.cwd())
        return Kernel(context.Process(target=serve, args=words))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_provisioner, "launch_kernel", launch_kernel)
        yield


class Kernel:
    """A forked process, with the part of `subprocess.Popen` that Jupyter uses."""

    stdin = stdout = stderr = None

    def __init__(self, process):
        self.process = process
        process.start()
        self.pid = process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def serve(words, env, cwd):
    """Become a kernel with a session, an environment and a folder of its own."""
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    matplotlib.use("module://matplotlib_inline.backend_inline")  # as a kernel chooses before
    # Without its parent, which ends with the tests, it ends too.
    IPKernelApp.launch_instance(argv=[*words, f"--IPKernelApp.parent_handle={os.getppid()}"])
