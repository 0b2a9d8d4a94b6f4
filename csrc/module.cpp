// The Python module, by which Python asks the CPU library for its instruction set and its threads. No operator needs
// it. Python's limited API serves every version from 3.10 on.
#undef Py_LIMITED_API  // torch's build defines the oldest Python of torch
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

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

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, nullptr},
    {"num_threads_seen", num_threads_seen, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
