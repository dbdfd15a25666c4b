/* dlopen and dlsym as cuDNN's frontend gets them: CUDA's runtime is not looked for, but is the one linked into this object. */
#ifndef RB_DEVICE_CUDA_SDPA_RUNTIME_H
#define RB_DEVICE_CUDA_SDPA_RUNTIME_H

void *rb_sdpa_dlopen(const char *name, int flags);
void *rb_sdpa_dlsym(void *object, const char *name); /* NULL: there is none */

#endif
