/* The text of report_page.html, NUL-terminated, put into the library by the assembler. */
#ifndef RB_RUN_REPORT_PAGE_H
#define RB_RUN_REPORT_PAGE_H

extern const char rb_report_page[] __attribute__((visibility("hidden")));

#endif
