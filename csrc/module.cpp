// The Python module, by which Python asks the CPU library for its instruction set and its threads, and tests ask for
// the memory of results. No operator needs it. Python's limited API serves every version from 3.10 on.
#undef Py_LIMITED_API  // torch's build defines the oldest Python of torch
#define Py_LIMITED_API 0x030a0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdexcept>

#include "cpu/hooks.h"

namespace {

namespace hooks = roialign_ext::hooks;

PyObject* cpu_capability(PyObject*, PyObject*) { return PyUnicode_FromString(hooks::cpu_capability().c_str()); }

PyObject* num_threads_seen(PyObject*, PyObject*) {
  long long threads = 0;
  Py_BEGIN_ALLOW_THREADS;
  threads = hooks::num_threads_seen();
  Py_END_ALLOW_THREADS;
  return PyLong_FromLongLong(threads);
}

PyObject* choose_pages(PyObject*, PyObject* arguments) {
  long long bytes = 0;
  const char *enabled = nullptr, *defrag = nullptr, *buddyinfo = nullptr;
  int stalled = 0;
  if (!PyArg_ParseTuple(arguments, "Lsssp", &bytes, &enabled, &defrag, &buddyinfo, &stalled)) return nullptr;
  return PyUnicode_FromString(hooks::choose_pages(bytes, enabled, defrag, buddyinfo, stalled != 0).c_str());
}

// Plays the trials of huge pages through. Character i of the argument is '1' if result i stalls with huge pages, else
// '0'. Character i of the result is '1' if result i got huge pages.
PyObject* try_huge_pages(PyObject*, PyObject* arguments) {
  const char* stalls = nullptr;
  if (!PyArg_ParseTuple(arguments, "s", &stalls)) return nullptr;
  return PyUnicode_FromString(hooks::try_huge_pages(stalls).c_str());
}

PyObject* is_stall(PyObject*, PyObject* arguments) {
  long long bytes = 0, nanoseconds = 0;
  if (!PyArg_ParseTuple(arguments, "LL", &bytes, &nanoseconds)) return nullptr;
  return PyBool_FromLong(hooks::is_stall(bytes, nanoseconds));
}

PyObject* supply_pages(PyObject*, PyObject* arguments) {
  unsigned long long address = 0;
  long long bytes = 0;
  const char* pages = nullptr;
  if (!PyArg_ParseTuple(arguments, "KLs", &address, &bytes, &pages)) return nullptr;
  try {
    hooks::supply_pages(address, bytes, pages);
  } catch (const std::invalid_argument& error) {  // an unknown name
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
  Py_INCREF(Py_None);
  return Py_None;
}

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, nullptr},
    {"num_threads_seen", num_threads_seen, METH_NOARGS, nullptr},
    {"choose_pages", choose_pages, METH_VARARGS, nullptr},
    {"is_stall", is_stall, METH_VARARGS, nullptr},
    {"try_huge_pages", try_huge_pages, METH_VARARGS, nullptr},
    {"supply_pages", supply_pages, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
