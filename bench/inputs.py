"""What benchmarks of whole runs train on: random bytes as shards, and a configuration that names them."""
import random
import subprocess


def make_inputs(program, folder, config):
    """FOLDER/corpus and FOLDER/run.yaml, the latter from config with {folder} filled in."""
    with open(f"{folder}/text", "wb") as f:
        f.write(random.Random(1).randbytes(1 << 20))
    subprocess.run([program, "data", "--out", f"{folder}/corpus", f"{folder}/text"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    with open(f"{folder}/run.yaml", "w") as f:
        f.write(config.format(folder=folder))
