// OpenSSL's scrypt, digests and constant-time comparison, for passwords and tokens of the admin process.
#pragma once
#include <openssl/crypto.h>
#include <openssl/evp.h>
