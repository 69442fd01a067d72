import sys
from pathlib import Path

# Benchmarks are programs that import each other by their folder.
sys.path.append(str(Path(__file__).parent))
