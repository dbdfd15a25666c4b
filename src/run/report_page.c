#include "run/report_page.h"

/* The path is looked up like an include's; cmake/program.cmake names the page as a dependency of this file. */
__asm__(".section .rodata\n"
        ".globl rb_report_page\n"
        ".hidden rb_report_page\n"
        ".type rb_report_page, @object\n"
        "rb_report_page:\n"
        ".incbin \"run/report_page.html\"\n"
        ".byte 0\n"
        ".size rb_report_page, .-rb_report_page\n"
        ".previous\n");
