/* Entry point of the command line. */

#include <stdio.h>

int main(void)
{
    puts("doppel");
    return 0;
}
