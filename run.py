"""One run from one config, or a sweep with -m: merge, evaluate, record, track.

python run.py method=ties tau=0.2
python run.py -m method=seme,ties tau=0.1,0.2

``eval "$(python run.py -sc install=bash)"`` completes overrides with the tab key; for that the
shell looks for the text @hydra.main in this file.
"""

from pathlib import Path

from seme_bench.start import start

if __name__ == "__main__":
    start(Path(__file__).resolve().parent)
