"""What `import` gives the suite for a module of the submission."""

import importlib.abc
import importlib.machinery
import types
from collections.abc import Container
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apart.process import Student


class SubmissionModule(types.ModuleType):
    """Stands for a module of the submission where the suite imports it."""

    def __init__(self, name: str, student: "Student") -> None:
        super().__init__(name)
        self.__dict__["__student__"] = student

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            raise ImportError(f"from {self.__name__} import *: name what is to be imported, it is not known yet")
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        student: Student = self.__dict__["__student__"]
        return (student.resolve if student.is_open else student.named)(f"{self.__name__}.{name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("__") or isinstance(value, SubmissionModule):
            super().__setattr__(name, value)
        else:
            self.__dict__["__student__"].named("builtins:setattr")(self, name, value)

    def __delattr__(self, name: str) -> None:
        self.__dict__["__student__"].named("builtins:delattr")(self, name)


class SubmissionFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `import` give a `SubmissionModule` for the modules that the suite expects of a submission.

    Args:
        student: Where they are.
        modules: Their names, those at the top only.
    """

    def __init__(self, student: "Student", modules: Container[str]) -> None:
        self._student = student
        self._modules = modules

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        top, *below = name.split(".")
        if top not in self._modules or (below and self._student.is_open and not self._has(name)):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def _has(self, name: str) -> bool:
        try:
            return self._student.named("importlib.util:find_spec")(name) is not None
        except ModuleNotFoundError:
            return False

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return SubmissionModule(spec.name, self._student)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to do: its code runs elsewhere."""
