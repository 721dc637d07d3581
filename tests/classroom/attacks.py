"""What a submission might try, as code for a cell: none may succeed, whatever it raises.

`VICTIM` is the teacher's folder with `notes.txt`, `GRADER` the grader's process number, `PORT`,
`UDP`, `ABSTRACT` and `SOCKET` are where a program of the teacher's listens. Each cell ends by
printing "done" if the attack went through, or what stopped it.
"""

SETUP = """
import ctypes, gc, os, pathlib, platform, resource, shutil, signal, socket, subprocess, sys, time
import numpy, torch
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def called(x86_64, aarch64, *arguments):
    must(libc.syscall(x86_64 if platform.machine() == "x86_64" else aarch64, *arguments))
def start_daemon(code):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            exec(code)
        os._exit(0)
"""

FILES = {
    "read a file": "open(VICTIM + '/notes.txt').read()",
    "read it through a folder's descriptor": (
        "os.open('notes.txt', os.O_RDONLY, dir_fd=os.open(VICTIM, os.O_PATH))"
    ),
    "read it with the C library": "must(libc.open((VICTIM + '/notes.txt').encode(), 0))",
    "read it through a link": "os.symlink(VICTIM, 'way'); open('way/notes.txt').read()",
    "link it into the own folder": "os.link(VICTIM + '/notes.txt', 'mine')",
    "map it into memory": "numpy.memmap(VICTIM + '/notes.txt', mode='r')",
    "list the folder": "os.listdir(VICTIM)",
    "look whether it is there": "os.stat(VICTIM + '/notes.txt')",
    "delete the folder": "shutil.rmtree(VICTIM)",
    "delete with the C library": "must(libc.unlink((VICTIM + '/notes.txt').encode()))",
    "delete through a folder's descriptor": (
        "must(libc.unlinkat(os.open(VICTIM, os.O_PATH), b'notes.txt', 0))"
    ),
    "rename": "os.rename(VICTIM + '/notes.txt', VICTIM + '/gone.txt')",
    "write": "open(VICTIM + '/notes.txt', 'w').write('mine')",
    "write with torch.save": "torch.save({}, VICTIM + '/notes.txt')",
    "write through from_file": (
        "torch.from_file(VICTIM + '/notes.txt', shared=True, size=4, dtype=torch.uint8).fill_(0)"
    ),
    "change the mode": (
        "must(libc.chmod((VICTIM + '/notes.txt').encode(), 0o777)); "
        "assert os.stat(VICTIM + '/notes.txt').st_mode & 2"
    ),
    "change the time": (
        "os.utime(VICTIM + '/notes.txt', (0, 0)); "
        "assert os.stat(VICTIM + '/notes.txt').st_mtime == 0"
    ),
    "read the passwords": "open('/etc/shadow').read()",
    "change the package on the disk": "open(checks_file, 'a').write('#')",
    "change this Python": "open(torch.__file__, 'a').write('#')",
    "see who else is graded": "assert set(os.listdir('/tmp')) - {own}",
}
WAYS_OUT = {
    "mount something": "must(libc.mount(b'tmpfs', b'/usr', b'tmpfs', 0, None))",
    "a namespace of its own, and mount": (
        "must(libc.unshare(0x10020000)); must(libc.mount(b'tmpfs', b'/usr', b'tmpfs', 0, None))"
    ),
    "another root": "os.chroot('.')",
    "the root of the grader": "os.listdir(f'/proc/{GRADER}/root' + VICTIM)",
    "the root of the first process": "open('/proc/1/root' + VICTIM + '/notes.txt').read()",
    "the memory of the grader": "open(f'/proc/{GRADER}/mem', 'r+b')",
    "the secrets in the grader's environment": (
        "assert b'hunter2' in open(f'/proc/{GRADER}/environ', 'rb').read()"
    ),
    "the secrets in its own": (
        "own = open('/proc/self/environ', 'rb').read() + str(os.environ).encode(); "
        "assert b'hunter2' in own"
    ),
    "kill the grader": "os.kill(GRADER, 9)",
    "kill it with the C library": "must(libc.kill(GRADER, 9))",
    "start a program": "subprocess.run(['cat', VICTIM + '/notes.txt'], check=True)",
}
NETWORK = {
    "a program on loopback": "socket.create_connection(('127.0.0.1', PORT), 2).send(b'x')",
    "a datagram": (
        "s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', UDP)); "
        "s.send(b'x'); time.sleep(0.1); s.send(b'x')"
    ),
    "an abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0' + ABSTRACT)",
    "a socket in a folder": "socket.socket(socket.AF_UNIX).connect(SOCKET)",
    "the world": "socket.create_connection(('192.0.2.1', 80), 2)",
    "packets of any kind": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
}
RESOURCES = {
    "much memory": "bytearray(10**10)",
    "a higher limit": "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
    "a large file": "open('large', 'wb').truncate(10**9)",
    "shared memory without end": (
        "f = open('/dev/shm/large', 'wb'); [f.write(bytes(10**8)) for _ in range(10)]"
    ),
    "processes without end": (
        "started = [subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']) "
        "for _ in range(3000)]"
    ),
}
OTHER_CALLS = {
    "a program in memory": (
        "held = os.memfd_create('x'); os.write(held, open('/bin/true', 'rb').read()); "
        "subprocess.run([f'/proc/self/fd/{held}'], pass_fds=[held], check=True)"
    ),
    "memory that no limit counts": "libc.memfd_create(b'x', 0) < 0 and must(-1)",
    "calls through a ring": "called(425, 425, 1, ctypes.create_string_buffer(120))",
    "faults of pages": "called(323, 282, 1)",
    "the teacher's keys": "called(250, 219, 0, -3, 1)",
    "a key of its own": "called(248, 217, b'user', b'x', b'y', 1, -3)",
    "counters of the processor": "called(298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "trace the grader": "must(libc.ptrace(16, GRADER, 0, 0))",
    "the memory of the process above": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "the grader's open files": "os.readlink(f'/proc/{GRADER}/fd/0')",
    "a file that the grader left open": (
        "opened = [os.path.realpath(f'/proc/self/fd/{n}') for n in range(3, 1024)]; "
        # Attacks before this one have opened VICTIM.
        "expected = (os.path.dirname(os.getcwd()), VICTIM, '/proc', '/dev'); "
        "assert [name for name in opened if not name.startswith(expected)]"
    ),
    "memory of System V": "must(libc.shmget(0x6D616D, 4096, 0o1666))",
    "a queue of System V": "must(libc.msgget(0x6D616D, 0o1666))",
    "a queue with a name": "must(libc.mq_open(b'/mamlpp', 0o102, 0o600, None))",
    "watch a folder": "must(libc.inotify_init())",
    "limits of the grader": "resource.prlimit(GRADER, resource.RLIMIT_CORE, (0, 0))",
    "slow the grader down": (
        "os.setpriority(os.PRIO_PROCESS, GRADER, 19); "
        "assert os.getpriority(os.PRIO_PROCESS, GRADER) == 19"
    ),
    "another core for the grader": "os.sched_setaffinity(GRADER, {0})",
    "a namespace of users": "must(libc.unshare(0x10000000))",
    "a socket of the machine's host": "socket.socket(40, socket.SOCK_STREAM)",
    "a disk": "os.mknod('disk', 0o60600, os.makedev(8, 0)); open('disk', 'rb')",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
}
# These go through, and must end with the submission.
LEFT_BEHIND = {
    "a daemon": "start_daemon('import time; time.sleep(613.1)')",
    "a Python without its environment, in a session of its own": (
        "subprocess.Popen([sys.executable, '-I', '-c', 'import time; time.sleep(613.2)'], "
        "env={}, start_new_session=True)"
    ),
}
ATTACKS = FILES | WAYS_OUT | OTHER_CALLS | NETWORK | RESOURCES
