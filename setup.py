"""What pyproject.toml cannot say: a wheel holds the default bundle, which lies beside the code."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODEL = Path("models/mnist")


class WithModel(build_py):
    """Copies MODEL to where `fend.cli.folders` looks for it; an editable install has ./models."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "fend/shipped", MODEL.name)
            self.mkpath(str(target))
            for file in filter(Path.is_file, MODEL.iterdir()):
                self.copy_file(str(file), str(target / file.name))


setup(cmdclass={"build_py": WithModel})
