"""llama.cpp by the binary that npm's node-llama-cpp ships, greedy; what it computes is `llamacpp_driver.mjs`'s."""

import json
import subprocess
from pathlib import Path
from typing import Any

from llamacpp_environment import install_llamacpp, q8_weights
from peer_loop import Progress, Prompts, serve, settings

BATCH_TOKENS = 512
"""llama.cpp's default of tokens that are computed together."""


class Driver:
    """The process of Node.js that holds the model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            ["node", Path(__file__).with_name("llamacpp_driver.mjs"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process, which ends with its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"node ended with status {self._process.wait()}; its own messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    given = settings()
    folder = Path(given["llamacpp_dir"])
    install_llamacpp(folder)
    driver = Driver(
        {
            "folder": str(folder),
            "weights": str(q8_weights(given["source"], folder)),
            "context": given["context"],
            "rows": given["rows"],
            "threads": given["threads"],
            "batchTokens": BATCH_TOKENS,
        }
    )

    def generate(prompts: Prompts, most: int, progress: Progress) -> None:
        driver.ask({"begin": prompts})
        while not progress.done:
            progress.add(dict.fromkeys(driver.ask({"step": True})["rows"], 1))
        driver.ask({"end": True})

    serve({"engine": "llama.cpp", **driver.about}, driver.about["vocab_size"], generate)
    driver.close()


if __name__ == "__main__":
    main()
