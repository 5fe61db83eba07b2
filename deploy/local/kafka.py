"""Apache Kafka on this machine without Docker: its jars from Maven Central, one KRaft node on 127.0.0.1.

`python deploy/local/kafka.py` downloads, formats, starts and returns when it is ready; `--stop` stops it. It may be
killed at any time: the next start goes on with the same data. Needs Java 17 or newer, and Maven for the download.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = ("openjdk-17-jre-headless", "maven")
HOW_TO_GET = """Kafka needs Java 17 or newer, and Maven to download it:
  Debian, Ubuntu: sudo apt-get install openjdk-17-jre-headless maven
  Fedora:         sudo dnf install java-21-openjdk-headless maven
  macOS:          brew install openjdk maven
Or name brokers that you have: HEADWATER_LOG__BOOTSTRAP_SERVERS=host:9092 (tests: KAFKA_BOOTSTRAP_SERVERS)."""

# One node keeps one copy. Nothing makes topics by asking for them: a deleted one would come back without its settings.
# A killed node is not let in again before the session of its former life has ended.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=33554432
log.cleaner.backoff.ms=1000
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1 (default 9092)")
    parser.add_argument("--state", type=Path, default=Path(".headwater/kafka"), help="folder of jars, data and log")
    parser.add_argument("--libs", type=Path, help="folder of the jars alone (default: libs in the state folder)")
    parser.add_argument("--properties", type=Path, help="file of broker properties that are added, or win")
    parser.add_argument("--timeout-seconds", type=float, default=120.0, help="how long to wait until it is ready")
    parser.add_argument("--stop", action="store_true", help="stop it, and keep its data")
    arguments = parser.parse_args()
    state: Path = arguments.state.absolute()
    try:
        if arguments.stop:
            stop(state)
        else:
            more = arguments.properties.read_text() if arguments.properties else ""
            libs = (arguments.libs or state / "libs").absolute()
            start(state, libs, arguments.port, arguments.timeout_seconds, more)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def start(state: Path, libs: Path, port: int, timeout_seconds: float, more_properties: str) -> None:
    if running(state):
        print(f"Kafka already runs, see {state / 'server.properties'}")
        return
    if listens(port):
        print(f"127.0.0.1:{port} is taken already; if that is not a Kafka broker, choose another --port")
        return
    state.mkdir(parents=True, exist_ok=True)
    install_tools(need_maven=not libs.exists())
    java = find_java()
    if not libs.exists():
        download(libs)
    properties = state / "server.properties"
    controller_port = free_port()
    properties.write_text(
        PROPERTIES.format(port=port, controller_port=controller_port, data=state / "data")
        + more_properties.replace("{port}", str(port)).replace("{controller_port}", str(controller_port))
    )
    # quick to start: the second compiler costs more than it gives on one machine
    options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    command = [java, *options, "-cp", f"{libs}/*"]
    log = state / "kafka.log"
    if not (state / "data" / "meta.properties").exists():
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # joined by "=": one in 64 ids begins with a dash, and would be taken for an option
        run([*command, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)])
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "kafka.Kafka", str(properties)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    pid_file(state).write_text(str(process.pid))
    wait_until_ready(process, port, log, timeout_seconds)
    print(f"Kafka listens on 127.0.0.1:{port}; stop it with --stop, its log is {log}")


def stop(state: Path) -> None:
    pid = running(state)
    if pid is None:
        print("Kafka does not run")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while running(state) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    pid_file(state).unlink(missing_ok=True)
    print("Kafka stopped")


def running(state: Path) -> int | None:
    """The broker's process id, if it is one of this state folder."""
    try:
        pid = int(pid_file(state).read_text())
    except (FileNotFoundError, ValueError):
        return None
    # ids are given anew: another program may have it now
    return pid if str(state / "server.properties") in command_line(pid) else None


def command_line(pid: int) -> str:
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace") if proc.exists() else ""
    return subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False).stdout


def pid_file(state: Path) -> Path:
    return state / "kafka.pid"


def find_java() -> str:
    candidates = [os.path.join(os.environ.get("JAVA_HOME", ""), "bin", "java"), shutil.which("java") or ""]
    for java in filter(os.path.isfile, candidates):
        version = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        found = re.search(r'version "(\d+)', version)
        if found and int(found[1]) >= 17:
            return java
    raise RuntimeError(HOW_TO_GET)


def install_tools(*, need_maven: bool) -> None:
    """On Debian, root may install what is missing; elsewhere the one who asked is told what to do."""
    if shutil.which("java") and (shutil.which("mvn") or not need_maven):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(HOW_TO_GET)
    print(f"installing {' and '.join(PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], environment)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES], environment)


def download(libs: Path) -> None:
    print("downloading Apache Kafka (43 MB)")
    libs.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own until it is whole, so that an interrupted download is not taken for the jars
    partial = libs.with_name(f"{libs.name}.{os.getpid()}.partial")
    run(
        ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
    )
    if not libs.exists():
        partial.rename(libs)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"Kafka ended with {process.returncode}; the end of {log}:\n{tail}")
        if listens(port):
            return
        time.sleep(0.1)
    raise RuntimeError(f"Kafka was not ready after {timeout_seconds:.0f} s; see {log}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
