/* The type gateway._native.Probes, for module.c. */
#ifndef GATEWAY_PROBE_PY_H
#define GATEWAY_PROBE_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* New references; NULL with an exception set. */
PyObject *probes_type(PyObject *module);
PyObject *probe_refusal_names(void);

#endif
